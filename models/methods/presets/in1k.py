"""Settings of recipes on ImageNet that several methods share, each number with its origin.

in1k.data_10pct(), in1k.encoder_10pct(), in1k.semiformer_optim(), in1k.run()
"""

from dataclasses import replace
from typing import Literal

from models.config.recipe import Encoder, Optim, Run
from pipeline.spec import Data, Mask, View


def data_10pct() -> Data:
    """ImageNet with a tenth of its labels, as in Semiformer's code (Semi-MAE: "same data augmentation")."""
    return Data(
        root="data/in1k",
        split="0.10",
        unlabelled="all",  # Semiformer and FixMatch code; the paper's text: the rest
        batch=832,  # ours: 8 x (13 + 91), exactly 1:7; Semi-MAE gives none, Semiformer code has 8 x (13 + 95)
        ratio=7,  # Semi-MAE section 4
        labelled_view="strong",  # Semiformer code; Semi-MAE eq. 1 writes the weak view
        weak=View(crop="resize_then_crop", filter="bicubic", short_side=256 / 224, padding=4),  # Semiformer code
        strong=View(filter="bicubic", scale=(0.08, 1.0), augment="timm", erase="random"),  # Semiformer code
        mask=Mask(ratio=0.75),  # MAE Table 1
    )


def encoder_10pct() -> Encoder:
    """ViT-S for supervised training, FixMatch and Semi-MAE, which so differ in their objective alone."""
    return Encoder(
        "vit_small_patch16_224",
        position="sincos",  # MAE section A.1, as the masked branch needs; Semiformer's code learns them
        drop_path=0.1,  # Semiformer code
    )


def run() -> Run:
    """Evaluate every 5,000 steps. Ours."""
    return Run(evaluate_steps=5000, log_steps=100, save_steps=1000)


def semiformer_optim(epochs: float = 700, labels_only_epochs: float = 100) -> Optim:
    """100 epochs on labels, 600 semi-supervised, one cosine over both; epochs are passes of the labelled images.

    The rate is the one of Semiformer's code, as is all that Semi-MAE's paper leaves open: timm's, once an epoch. An
    epoch on labels alone has 8 times fewer steps, so that by steps (`--optim.schedule-by step`) the rate would be 22 %
    higher half-way.
    """
    return Optim(
        lr=1e-3,  # Semi-MAE section 4
        final_lr=1e-5,  # Semi-MAE section 4
        epochs=epochs,  # Semi-MAE section 4: 100 + 600
        labels_only_epochs=labels_only_epochs,
        schedule_by="whole_epoch",  # Semiformer code
        warmup_epochs=5,  # Semiformer code
        warmup_lr=1e-6,  # Semiformer code
        warmup_prefix=False,  # Semiformer code
        epoch_unit="labelled",  # Semiformer code
        weight_decay=0.05,  # Semiformer code
        betas=(0.9, 0.999),  # Semiformer code
    )


def semiformer_data() -> Data:
    """data_10pct in the batches of Semiformer's code: 13 labelled and 95 unlabelled images on each of 8 GPUs."""
    return replace(data_10pct(), batch=8 * (13 + 95), ratio=95 / 13)


def mae_data(labelled_view: Literal["weak", "strong"] = "weak") -> Data:
    """ImageNet as MAE pre-trains on it (Table 8)."""
    return Data(
        root="data/in1k",
        batch=4096,  # Table 8
        labelled_view=labelled_view,
        weak=View(filter="bicubic", scale=(0.2, 1.0)),  # MAE code
        mask=Mask(ratio=0.75),  # Table 1
    )


def mae_optim(
    epochs: float, warmup_epochs: float, epoch_unit: Literal["labelled", "unlabelled"] = "unlabelled"
) -> Optim:
    """AdamW as in MAE's Table 8."""
    return Optim(
        lr=1.5e-4,
        lr_batch=256,
        final_lr=0.0,
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        epoch_unit=epoch_unit,
        weight_decay=0.05,
        decay_tokens=True,  # MAE code
        betas=(0.9, 0.95),
    )
