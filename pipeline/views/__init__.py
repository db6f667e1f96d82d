"""What happens to each image? A plan draws every random number of a batch on the host; the files beside it say what can
be drawn (crops, RandAugment, jitter, erasing, masks) and carry it out on a CPU (numba) or a GPU (Triton, torch).

May import `sampling` and `concurrency`. Read `plan.py` first.
"""
