"""What does a masked branch predict? One target is one file: pixels, principal components, a tokenizer's codes.

May import `encoder` and `losses`; `fitting.py`, which reads images to fit a target on, also `config`. Read `target.py`
first.
"""
