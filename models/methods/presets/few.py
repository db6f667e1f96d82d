"""Settings of recipes that start from a foundation model and learn a handful of labels, each number with its origin.

few.data(), few.optim(1e-4, steps=1000)            # one's own photographs: the recipes called few
few.cifar10_data(), few.optim(1e-4, steps=150)     # CIFAR-10 at a size for two cores: those called cifar10_few

The encoder is that of --run.start, whichever it is; its patch must divide --data.size.
"""

from dataclasses import replace

from models.config.recipe import Encoder, Optim, Run
from models.methods.presets import small
from models.pseudo_labels.settings import AlignTo, Pseudo
from pipeline.spec import Data, Mask, View


def data() -> Data:
    """Photographs in data/mine, with labels and without; a quarter of a batch is labelled.

    Evaluation is on the centre 224 of 256 pixels, as the encoders of timm, MAE and DINOv2 were judged.
    """
    return Data(
        root="data/mine",
        batch=64,  # ours: 16 labelled, 48 unlabelled; USB has 8 and 8
        ratio=3,
        labelled_view="weak",  # FixMatch eq. 3, USB
        weak=View(crop="resize_then_crop", filter="bicubic", short_side=256 / 224, padding=4),  # Semiformer code
        strong=View(filter="bicubic", augment="timm", erase="random"),  # Semiformer code
        mask=Mask(ratio=0.75),  # MAE Table 1
    )


def cifar10_data() -> Data:
    """CIFAR-10 with 40 labels at 70 pixels, so that patches of 14 make a grid of 5 x 5. Ours."""
    base = small.cifar10_data(split="4-per-class")
    return replace(
        base,
        batch=32,
        ratio=3,
        size=70,
        weak=replace(base.weak, filter="bicubic", padding=8),  # FixMatch code: 4 of 32 pixels
        strong=replace(base.strong, filter="bicubic", padding=8),
        evaluate=replace(base.evaluate, filter="bicubic"),
    )


def optim(lr: float, *, steps: int, warmup: int, labels_only: int = 0, ema_decay: float | None = None) -> Optim:
    """AdamW over a number of steps, with half a cosine to 0; the moving average is evaluated, and labels. Ours.

    Without a decay the average begins short and ends at 0.99, so that runs of a hundred steps have one, too.
    """
    return Optim(
        lr=lr,
        epochs=steps,
        warmup_epochs=warmup,
        labels_only_epochs=labels_only,
        epoch_unit="step",
        weight_decay=0.05,
        layer_decay=0.75,  # MAE Table 9
        ema_decay=ema_decay or 0.99,
        ema_warmup=ema_decay is None,
    )


def encoder() -> Encoder:
    """The encoder of --run.start, as its file describes it; all of it is trained (--encoder.adapt)."""
    return Encoder("auto")


def run() -> Run:
    """Evaluate every 250 steps. Ours."""
    return Run(evaluate_steps=250)


def pseudo(align: AlignTo, momentum: float) -> Pseudo:
    """The moving average labels, what is at least 0.5 sure counts, and predictions are aligned (ReMixMatch).

    Ours, chosen on val of CIFAR-10 with 40 labels (docs/results.md).
    """
    return Pseudo(0.5, teacher="ema", align=align, momentum=momentum)


def soft_labels() -> Pseudo:
    """Every soft label counts, sharpened. Ours."""
    return Pseudo(0.0, soft=True, temperature=0.5)
