"""Whose weights does a run start from? A run of ours, an export, a released file, or a timm name with weights on this
machine.

May import `encoder`, `method`, `checkpoint` and `load`. Read `fit.py` first.
"""

from models.pretrained.fit import load_encoder

__all__ = ["load_encoder"]
