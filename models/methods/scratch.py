"""Supervised training from scratch on every label, with MAE's settings (Table 11) and DeiT's (Touvron et al. 2021): the
baselines of pre-training. The objective is that of `finetune.py`.
"""

from dataclasses import replace

from models.config.recipe import Encoder, Recipe
from models.methods.finetune import Settings
from models.methods.presets import in1k
from models.methods.presets.finetune import deit_optim, in1k_data, scratch_optim


def in1k_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 300 epochs.  MAE section A.2: 82.3 % (82.1 without average).  Here: not yet run."""
    return _mae("vit_base_patch16_224", drop_path=0.1, epochs=300)


def in1k_l16() -> Recipe[Settings]:
    """ImageNet, ViT-L/16, 200 epochs.  MAE section A.2: 82.6 % (81.5 without average).  Here: not yet run."""
    return _mae("vit_large_patch16_224", drop_path=0.2, epochs=200)


def in1k_h14() -> Recipe[Settings]:
    """ImageNet, ViT-H/14, 200 epochs.  MAE section A.2: 83.1 % (80.9 without average).  Here: not yet run."""
    return _mae("vit_huge_patch14_224", 14, drop_path=0.2, epochs=200)


def deit_s16() -> Recipe[Settings]:
    """ImageNet, ViT-S/16, 300 epochs, without repeated augmentation.  DeiT: 79.8 %, with it.  Here: not yet run."""
    return _deit("vit_small_patch16_224")


def deit_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 300 epochs, without repeated augmentation.  DeiT: 81.8 %, with it.  Here: not yet run."""
    return _deit("vit_base_patch16_224")


def _mae(name: str, patch: int = 16, *, drop_path: float, epochs: float) -> Recipe[Settings]:
    data = in1k_data(batch=4096)  # Table 11
    return Recipe(
        Settings(head_std=None),  # smoothing, mixup, cutmix: Table 11
        replace(data, strong=replace(data.strong, erase="none")),  # section A.2; Table 11 lists no erasing
        # appendix A.1: positions of sines, a class token; Table 11: drop path
        Encoder(name, patch=patch, position="sincos", drop_path=drop_path),
        scratch_optim(epochs),
        in1k.run(),
    )


def _deit(name: str) -> Recipe[Settings]:
    return Recipe(
        Settings(head_std=None),  # smoothing, mixup, cutmix: DeiT Table 9
        in1k_data(),  # DeiT Table 9: the same batch and views
        Encoder(name, drop_path=0.1),  # DeiT Table 9; a class token and learned positions
        deit_optim(),
        in1k.run(),
    )
