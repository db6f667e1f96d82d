"""Which image when? The images of every step are a pure function of seed and step, at any number of ranks, and so is
their size in pixels.

May import `rng`, `spec` and `errors`. Read `sampler.py` first.
"""
