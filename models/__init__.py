"""What is computed, learned, kept and measured? Methods and their parts, training, evaluation and export.

May import `pipeline`. Read `method.py` first, then `methods/semi_mae.py`.
"""

import os

# Set before torch loads OpenMP: waiting threads spin for some microseconds, then sleep. By default they keep spinning,
# and a small model on the CPU fell from 2,000 to 70 images/s as soon as another process used a core.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
