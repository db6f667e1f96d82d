"""What a run starts from: a run of ours, an export, a released file, or a timm name with weights on this machine."""

from models.pretrained.fit import load_encoder

__all__ = ["load_encoder"]
