"""Settings of recipes on the embedded digits and on CIFAR-10, each number with its origin.

small.digits_data(), small.digits_encoder(), small.digits_optim()

CIFAR-10 has two sizes: a ViT that a CPU core trains in minutes, to compare methods, and ViT-Tiny/4 for a GPU.
"""

from typing import Literal

from models.config.recipe import Encoder, Optim
from models.masked.settings import Reconstruct
from pipeline.spec import Data, Mask, View


def digits_data(labelled_view: Literal["weak", "strong"] = "strong") -> Data:
    """scikit-learn's digits: 1,197 train, 300 val, 300 test; 5 labels a class. Ours, chosen on val.

    The images are small and grey, so the views are milder than on ImageNet: one RandAugment operation, nothing erased
    (with two and cutout Semi-MAE lost a point), no mirroring, which would turn a digit into another. As in Semiformer's
    code the labelled loss has the strong view; with the weak one supervised training ends at 54 % instead of 88 %.
    """
    return Data(
        root="data/digits",
        test="test.beton",
        split="5-per-class",
        batch=128,
        ratio=7,  # Semi-MAE section 4
        size=16,
        labelled_view=labelled_view,
        weak=View(crop="resize_then_crop", short_side=1.0, padding=2, flip=False),
        strong=View(crop="resize_then_crop", short_side=1.0, padding=2, flip=False, augment="torchvision", layers=1),
        evaluate=View(crop="centre", short_side=1.0, flip=False),
        mask=Mask(ratio=0.5),
    )


def digits_encoder() -> Encoder:
    """A ViT of 0.2 M parameters on 4 x 4 patches. Ours; a width of 96 gained nothing (docs/measurements.md)."""
    return Encoder(None, width=64, depth=4, heads=4, patch=4, pool="avg")


def resnet_encoder() -> Encoder:
    """A ResNet of 0.5 M parameters, timm's smallest, with the stem that He et al. (2016, section 4.2) have for small
    images: for digits and CIFAR-10. Ours."""
    return Encoder("test_resnet", stem="small")


def digits_decoder() -> Reconstruct:
    """One block of 64. Ours."""
    return Reconstruct(depth=1, width=64, heads=4)


def digits_optim(labels_only: int = 500, ema_decay: float | None = 0.99) -> Optim:
    """1,800 steps, about two minutes on 2 cores; the methods with pseudo-labels begin with 500 on labels. Ours."""
    return short_optim(2e-3, steps=1800, warmup=100, labels_only=labels_only, ema_decay=ema_decay)


def cifar10_data(batch: int = 128, mask_ratio: float = 0.5, split: str | None = "400-per-class") -> Data:
    """45,000 train images, 5,000 val that were cut from CIFAR-10's train, its 10,000 test; 4,000 labels.

    Views as in FixMatch's code and USB: mirror and crop after a reflected border of 4, and for the strong view
    RandAugment of USB's list and cutout. The labelled loss has the weak view, as in both.
    """
    weak = View(crop="resize_then_crop", short_side=1.0, padding=4)  # FixMatch code
    strong = View(crop="resize_then_crop", short_side=1.0, padding=4, augment="usb", erase="cutout")  # USB
    return Data(
        root="data/cifar10",
        test="test.beton",
        split=split,
        batch=batch,
        ratio=7,  # FixMatch section 4
        size=32,
        labelled_view="weak",  # FixMatch eq. 3
        weak=weak,
        strong=strong,
        evaluate=View(crop="centre", short_side=1.0, flip=False),
        mask=Mask(ratio=mask_ratio),
    )


def cifar10_encoder() -> Encoder:
    """A ViT of 0.5 M parameters on 4 x 4 patches of 8 pixels. Ours."""
    return Encoder(None, width=96, depth=4, heads=3, patch=8, position="sincos", pool="avg")


def cifar10_decoder() -> Reconstruct:
    """One block of 96; normalised pixels (MAE Table 1d). Ours."""
    return Reconstruct(depth=1, width=96, heads=3, target="norm_pix")


def cifar10_optim(labels_only: int = 250, ema_decay: float | None = 0.99) -> Optim:
    """1,000 steps, a minute or two on one core; the methods with pseudo-labels begin with 250 on labels. Ours."""
    return short_optim(1e-3, steps=1000, warmup=100, labels_only=labels_only, ema_decay=ema_decay)


def cifar10_tiny_data(split: str | None = "400-per-class") -> Data:
    """CIFAR-10 with the views of `cifar10_data`, at FixMatch's batch: 64 labelled images and 448 unlabelled."""
    return cifar10_data(batch=512, mask_ratio=0.75, split=split)  # FixMatch section 4; MAE Table 1


def cifar10_tiny_encoder() -> Encoder:
    """ViT-Tiny on 8 x 8 patches of 4 pixels: 5.4 M parameters."""
    return Encoder("vit_tiny_patch16_224", patch=4, position="sincos", pool="avg", drop_path=0.1)  # as in1k_10pct


def cifar10_tiny_decoder() -> Reconstruct:
    """Two blocks of 192; normalised pixels (MAE Table 1d). Ours."""
    return Reconstruct(depth=2, width=192, heads=3, target="norm_pix")


def cifar10_tiny_optim(labels_only: int = 2_000, ema_decay: float | None = 0.999) -> Optim:
    """40,000 steps: 20 million images. Ours; the average is FixMatch's."""
    return short_optim(1e-3, steps=40_000, warmup=1_000, labels_only=labels_only, ema_decay=ema_decay)


def short_optim(lr: float, *, steps: int, warmup: int, labels_only: int, ema_decay: float | None) -> Optim:
    """AdamW over a number of steps, with half a cosine to 1e-5. Ours."""
    return Optim(
        lr=lr,
        final_lr=1e-5,
        epochs=steps,
        warmup_epochs=warmup,
        labels_only_epochs=labels_only,
        epoch_unit="step",
        weight_decay=0.05,
        ema_decay=ema_decay,
    )
