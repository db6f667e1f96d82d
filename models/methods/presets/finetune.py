"""Settings that fine-tuning and supervised training on ImageNet share, each number with its origin."""

from models.config.recipe import Encoder, Optim
from pipeline.spec import Data, View


def in1k_data(batch: int = 1024, size: int = 224) -> Data:
    """ImageNet with all labels, as MAE's code fine-tunes on it (DeiT's views).

    Evaluation is on the centre 224 of 256 pixels, and above 224 on the whole short side (MAE code).
    """
    return Data(
        root="data/in1k",
        batch=batch,  # MAE Table 9
        size=size,
        labelled_view="strong",
        # MAE code: rand-m9-mstd0.5-inc1, erase 0.25
        strong=View(filter="bicubic", scale=(0.08, 1.0), augment="timm", erase="random"),
        evaluate=View(
            crop="centre", filter="bicubic", flip=False, short_side=256 / 224 if size <= 224 else 1.0
        ),  # MAE code
    )


def in1k_encoder(name: str, drop_path: float, patch: int = 16) -> Encoder:
    """A ViT whose classifier reads the normed mean of patch tokens; positions start as MAE's table and are trained."""
    return Encoder(name, patch=patch, pool="avg", fc_norm=True, drop_path=drop_path)  # MAE code


def in1k_optim(lr: float, layer_decay: float, epochs: float) -> Optim:
    """AdamW as in MAE's code for fine-tuning."""
    return Optim(
        lr=lr,
        lr_batch=256,
        final_lr=1e-6 * 256 / 1024,  # MAE code: 1e-6, which is not scaled
        epochs=epochs,
        warmup_epochs=5,
        epoch_unit="labelled",
        weight_decay=0.05,
        betas=(0.9, 0.999),
        layer_decay=layer_decay,
    )


def scratch_optim(epochs: float) -> Optim:
    """AdamW as in MAE's Table 11."""
    return Optim(
        lr=1e-4,
        lr_batch=256,
        epochs=epochs,
        warmup_epochs=20,
        epoch_unit="labelled",
        weight_decay=0.3,
        betas=(0.9, 0.95),
        ema_decay=0.9999,
    )


def deit_optim() -> Optim:
    """AdamW as in DeiT's code, whose rate rises from 1e-6 once an epoch; here it rises from 0 at each step."""
    return Optim(
        lr=5e-4,
        lr_batch=512,
        final_lr=1e-5 * 512 / 1024,  # DeiT code: 1e-5, which is not scaled
        epochs=300,
        warmup_epochs=5,
        epoch_unit="labelled",
        weight_decay=0.05,
        betas=(0.9, 0.999),
    )
