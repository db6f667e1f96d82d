"""From whose weights does a run start? From an earlier run's, an exported folder's, a released file's, or those of a
timm name on this machine.

    load_encoder(method, "vit_base_patch16_224.mae")

May import `pipeline`, `encoder`, `method`, `checkpoint` and `records`. Read `load_into.py` first.
"""

from models.pretrained.load_into import load_encoder

__all__ = ["load_encoder"]
