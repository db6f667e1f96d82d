"""Supervised training on the labelled images alone: the baseline of the semi-supervised methods."""

from dataclasses import dataclass, field, replace
from typing import Annotated, final

from models.config.recipe import Encoder, Recipe
from models.encoder.vit import FullImages, classify, encode
from models.losses import label_loss
from models.method import Loss, Method, StepInfo
from models.methods.balance import Balance, build_balance
from models.methods.presets import in1k, small
from pipeline.batch import Batch
from pipeline.flags import BELOW_1
from pipeline.spec import Needs


@dataclass(frozen=True)
class Settings:
    """One loss, the cross-entropy of labelled images."""

    smoothing: Annotated[float, BELOW_1] = 0.1
    """Label smoothing."""
    balance: Balance = field(default_factory=Balance)
    """Classes with many and with few labels."""


@final
class Supervised(Method):
    """L = CE(p(x), y) over labelled images."""

    whole_images = True

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes)
        self.smoothing = recipe.method.smoothing
        self.balance = build_balance(recipe.method.balance, classes, unlabelled=False)

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Labelled images."""
        return Needs(labelled=True)

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Cross-entropy of the labelled images."""
        assert batch.labelled is not None
        (logits,) = classify(self.encoder, encode(self.encoder, [FullImages(batch.labelled.images)]))
        label = label_loss(logits, batch.labelled.labels, self.smoothing, self.balance)
        return Loss(label, {"label": label.detach()})


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, ViT of 4 x 64: the floor of the ladder."""
    return Recipe(
        Settings(smoothing=0.0), small.digits_data(), small.digits_encoder(), small.digits_optim(labels_only=0)
    )


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, a small ViT, 1,000 steps: the floor of the ladder."""
    return Recipe(
        Settings(smoothing=0.0),
        small.cifar10_data(),
        small.cifar10_encoder(),
        small.cifar10_optim(labels_only=0),
    )


def digits_resnet() -> Recipe[Settings]:
    """supervised:digits on a small ResNet of timm.  Here: not yet run to its end."""
    return replace(digits(), encoder=small.resnet_encoder())


def cifar10_resnet() -> Recipe[Settings]:
    """supervised:cifar10 on a small ResNet of timm.  Here: not yet run."""
    return replace(cifar10(), encoder=small.resnet_encoder())


def cifar10_tiny() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, ViT-Tiny/4, 40,000 steps.  Here: not yet run."""
    return Recipe(
        Settings(smoothing=0.0),
        small.cifar10_tiny_data(),
        small.cifar10_tiny_encoder(),
        small.cifar10_tiny_optim(labels_only=0),
    )


def in1k_10pct() -> Recipe[Settings]:
    """ImageNet, 10 % of the labels, ViT-S from scratch with Semiformer's settings.  Here: not yet run."""
    return Recipe(
        Settings(smoothing=0.1),  # Semiformer code
        in1k.data_10pct(),
        in1k.encoder_10pct(),
        in1k.semiformer_optim(labels_only_epochs=0, epochs=300),  # ours: no paper trains this row
        in1k.run(),
    )


def in1k_10pct_r50() -> Recipe[Settings]:
    """supervised:in1k_10pct on a ResNet-50, as in Semi-MAE's Table 1.  Here: not yet run.

    All but the network is as there, so that rows differ in one thing; optimiser and views are not those of the
    papers that first reported a ResNet-50.
    """
    return replace(in1k_10pct(), encoder=Encoder("resnet50"))
