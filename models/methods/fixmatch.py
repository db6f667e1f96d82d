"""FixMatch on a plain ViT (Sohn et al. 2020; on ViT: Semi-MAE's baseline, Semiformer's objective)."""

from dataclasses import dataclass
from typing import Literal, final

from models import presets, presets_cifar10
from models.losses import label_loss, pseudo_label_loss
from models.method import Guesses, Loss, Method, Moment
from models.pseudo_label import check_droppable, confident, of_confident, pseudo_labels
from models.recipe import Recipe
from models.vit import Whole, classify, encode
from pipeline.batch import Batch
from pipeline.spec import Needs


@dataclass(frozen=True)
class Settings:
    """A label where there is one, a confident guess where there is none."""

    threshold: float = 0.7
    """Confidence from which a pseudo-label is believed (tau)."""
    lambda_u: float = 10.0
    """Weight of the pseudo-labelled loss."""
    smoothing: float = 0.1
    """Label smoothing of the labelled loss."""
    teacher: Literal["self", "average"] = "self"
    """Who labels: the network itself in eval mode, or its moving average (optim.average)."""
    drop_rejected: bool = True
    """Leave strong views whose guess did not pass out of the network: they have exactly no gradient. Off for encoders
    that mix the images of a batch."""


@final
class FixMatch(Method):
    """L = L_s + lambda_u L_u (Sohn et al. 2020, eq. 3, 4)."""

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes)
        self.settings = recipe.method
        if self.settings.drop_rejected:
            check_droppable(self.encoder)
        self.teacher(self.settings.teacher)  # refuse at once what would fail at the first pseudo-label

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        return Needs(labelled=True, unlabelled=True, strong=True)

    def forward(self, batch: Batch, now: Moment) -> Loss:
        known, unknown, s = batch.labelled, batch.unlabelled, self.settings
        if now.labels_only:
            (logits,) = classify(self.encoder, encode(self.encoder, [Whole(known.images)]))
            label = label_loss(logits, known.labels, s.smoothing)
            return Loss(label, {"label": label.detach()})

        guess = pseudo_labels(self.teacher(s.teacher), unknown.weak, s.threshold)
        # images whose guess did not pass have exactly zero gradient: they never enter the encoder
        groups = encode(self.encoder, [Whole(known.images), confident(unknown.strong, guess, s.drop_rejected)])
        logits, strong = classify(self.encoder, groups)
        label = label_loss(logits, known.labels, s.smoothing)  # eq. 3
        passed = of_confident(strong, guess, s.drop_rejected)
        pseudo = pseudo_label_loss(passed, guess.classes[guess.rows], len(guess.classes))  # eq. 4
        parts = {"label": label.detach(), "pseudo": pseudo.detach()}
        return Loss(label + s.lambda_u * pseudo, parts, Guesses(unknown.ids, guess.classes, guess.passed))


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, ViT of 4 x 64: the middle of the ladder."""
    return Recipe(
        Settings(threshold=0.7, lambda_u=1.0, smoothing=0.0, teacher="average"),  # ours, chosen on val
        presets.digits_data(),
        presets.digits_encoder(),
        presets.digits_optim(),
    )


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, a small ViT, 1,000 steps: the middle of the ladder."""
    return Recipe(
        Settings(threshold=0.95, lambda_u=1.0, smoothing=0.0, teacher="average"),  # section 4; teacher: as on digits
        presets_cifar10.cifar10_data(),
        presets_cifar10.cifar10_encoder(),
        presets_cifar10.cifar10_optim(),
    )


def cifar10_tiny() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, ViT-Tiny/4, 40,000 steps.  Here: not yet run."""
    return Recipe(
        Settings(threshold=0.95, lambda_u=1.0, smoothing=0.0),  # section 4
        presets_cifar10.cifar10_tiny_data(),
        presets_cifar10.cifar10_tiny_encoder(),
        presets_cifar10.cifar10_tiny_optim(),
    )


def in1k_10pct() -> Recipe[Settings]:
    """ImageNet, 10 % of the labels, ViT-S from scratch with Semiformer's settings.  Here: not yet run."""
    return Recipe(
        Settings(threshold=0.7, lambda_u=10.0, smoothing=0.1),  # Semiformer code; lambda: Semi-MAE section 4
        presets.in1k_10pct_data(),
        presets.in1k_10pct_encoder(),
        presets.semiformer_optim(),
        presets.in1k_run(),
    )
