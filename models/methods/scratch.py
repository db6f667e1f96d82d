"""Supervised training from scratch on every label, with MAE's settings (Table 11), DeiT's (Touvron et al. 2021) and the
ViT paper's (Dosovitskiy et al. 2021): the baselines of pre-training. The objective is that of `finetune.py`.
"""

from dataclasses import replace

from models.config.recipe import Encoder, Optim, Recipe
from models.methods.finetune import Settings
from models.methods.presets import in1k
from models.methods.presets.finetune import deit_optim, in1k_data, scratch_optim
from pipeline.spec import View


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
    """ImageNet, ViT-S/16, 300 epochs, each image three times in a row.  DeiT: 79.8 %.  Here: not yet run."""
    return _deit("vit_small_patch16_224")


def deit_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 300 epochs, each image three times in a row.  DeiT: 81.8 %.  Here: not yet run."""
    return _deit("vit_base_patch16_224")


def original_b16() -> Recipe[Settings]:
    """ImageNet, ViT-B/16, 300 epochs, weak views.  ViT paper: 77.9 % at 384 pixels (Table 5).  Here: not yet run."""
    return _original("vit_base_patch16_224")


def original_l16() -> Recipe[Settings]:
    """ImageNet, ViT-L/16: "scratch, original" in MAE's section 4.  ViT paper: 76.5 % (Table 5).  Here: not yet run.

    The paper's figures are of networks that are then fine-tuned at 384 pixels. It also has dropout of 0.1 and a hidden
    layer in its classifier, which are not here.
    """
    return _original("vit_large_patch16_224")


def _original(name: str) -> Recipe[Settings]:
    data = in1k_data(batch=4096)  # ViT paper, Table 3
    view = View(filter="bilinear", scale=(0.05, 1.0))  # ViT code: Inception's crop, mirrored
    return Recipe(
        Settings(smoothing=0.0, mixup=0.0, cutmix=0.0, head_std=None),  # ViT paper: none of them
        replace(data, labelled_view="weak", weak=view),
        Encoder(name),  # a class token and learned positions
        Optim(
            lr=3e-3,
            epochs=300,
            warmup_epochs=10_000 * 4096 / 1_281_167,  # 10,000 steps
            epoch_unit="labelled",
            weight_decay=0.3,
            betas=(0.9, 0.999),
            clip=1.0,
        ),  # ViT paper, Table 3; half a cosine to 0
        in1k.run(),
    )


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
        replace(in1k_data(), repeats=3),  # DeiT Table 9: the same batch and views, and repeated augmentation
        Encoder(name, drop_path=0.1),  # DeiT Table 9; a class token and learned positions
        deit_optim(),
        in1k.run(),
    )
