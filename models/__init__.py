"""What is computed, learned, kept and measured."""

import os

# Before torch loads OpenMP: threads that wait spin for some microseconds, then sleep. Spinning on, as is the default,
# a small model on the CPU fell from 2,000 to 70 images/s as soon as another process wanted a core.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
