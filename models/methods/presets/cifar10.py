"""Settings that recipes on CIFAR-10 share, each number with its origin.

There are two sizes: a ViT that a CPU core trains in minutes, to compare methods, and ViT-Tiny/4 for a GPU.
"""

from models.config.recipe import Encoder, Optim
from models.masked.settings import Reconstruct
from models.methods.presets.shared import short_optim
from pipeline.spec import Data, Mask, View


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
