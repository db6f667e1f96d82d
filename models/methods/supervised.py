"""Labels only: the baseline that every semi-supervised number is read against."""

from dataclasses import dataclass
from typing import final

from models import presets, presets_cifar10
from models.losses import label_loss
from models.method import Loss, Method, Moment
from models.recipe import Recipe
from models.vit import Whole, classify, encode
from pipeline.batch import Batch
from pipeline.spec import Needs


@dataclass(frozen=True)
class Settings:
    """Cross-entropy on the labelled images."""

    smoothing: float = 0.1
    """Label smoothing."""


@final
class Supervised(Method):
    """L = CE(p(x), y) over labelled images."""

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes)
        self.smoothing = recipe.method.smoothing

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        return Needs(labelled=True)

    def forward(self, batch: Batch, now: Moment) -> Loss:
        known = batch.labelled
        (logits,) = classify(self.encoder, encode(self.encoder, [Whole(known.images)]))
        label = label_loss(logits, known.labels, self.smoothing)
        return Loss(label, {"label": label.detach()})


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, ViT of 4 x 64: the floor of the ladder."""
    return Recipe(
        Settings(smoothing=0.0), presets.digits_data(), presets.digits_encoder(), presets.digits_optim(labels_only=0)
    )


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, a small ViT, 1,000 steps: the floor of the ladder."""
    return Recipe(
        Settings(smoothing=0.0),
        presets_cifar10.cifar10_data(),
        presets_cifar10.cifar10_encoder(),
        presets_cifar10.cifar10_optim(labels_only=0),
    )


def cifar10_tiny() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, ViT-Tiny/4, 40,000 steps.  Here: not yet run."""
    return Recipe(
        Settings(smoothing=0.0),
        presets_cifar10.cifar10_tiny_data(),
        presets_cifar10.cifar10_tiny_encoder(),
        presets_cifar10.cifar10_tiny_optim(labels_only=0),
    )


def in1k_10pct() -> Recipe[Settings]:
    """ImageNet, 10 % of the labels, ViT-S from scratch with Semiformer's settings.  Here: not yet run."""
    return Recipe(
        Settings(smoothing=0.1),  # Semiformer code
        presets.in1k_10pct_data(),
        presets.in1k_10pct_encoder(),
        presets.semiformer_optim(labels_only_epochs=0, epochs=300),  # ours: no paper trains this row
        presets.in1k_run(),
    )
