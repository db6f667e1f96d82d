"""What is computed, learned, kept and measured."""

import os

# Before torch loads OpenMP: threads that wait asleep. Spinning, as is the default, a small model on the CPU runs at a
# tenth of its speed or less as soon as another process wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
