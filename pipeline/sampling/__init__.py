"""Which image when? The images of every step are a pure function of seed and step, at any number of ranks, and so is
their size.

Imports `rng`, `spec` and `errors` of the root. Read `sampler.py` first.
"""
