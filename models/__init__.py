"""What is computed, learned, kept and measured? Methods and their parts, training, evaluation and export.

May import `pipeline`. Read `method.py` first, then `methods/semi_mae.py`.
"""

import gc
import os

# The imports of a command make some 400,000 objects, among which Python by default looks for dead cycles 900 times: a
# seventh of its start.
gc.set_threshold(10_000, 10, 10)
# Set before torch loads OpenMP: waiting threads spin for some microseconds, then sleep. By default they keep spinning,
# and a small model on the CPU fell from 2,000 to 70 images/s as soon as another process used a core.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
# The number of images that pass changes the sizes of a step's tensors: segments that grow take them, where fixed ones
# would be kept beside each other for every size. Read when CUDA is first used
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # the older name, by which a user may have chosen
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
