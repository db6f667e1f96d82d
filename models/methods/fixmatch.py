"""FixMatch on a plain ViT (Sohn et al. 2020; on ViT: Semi-MAE's baseline, Semiformer's objective)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, final

from torch import nn

from models.config.recipe import Encoder, Recipe
from models.encoder.timm_classifier import TimmClassifier
from models.encoder.vit import FullImages, classify, encode, eval_logits
from models.losses import label_loss
from models.method import Loss, Method, StepInfo
from models.methods.balance import Balance, build_balance
from models.methods.labels_only import labels_only
from models.methods.presets import few as few_labels
from models.methods.presets import in1k, small
from models.pseudo_labels.mixup import mixed, random_pairs
from models.pseudo_labels.pseudo_label import PseudoLabels
from models.pseudo_labels.settings import ADAMATCH, FLEXMATCH, FREEMATCH, SOFTMATCH, Pseudo
from pipeline.batch import Batch
from pipeline.flags import BELOW_1, NOT_NEGATIVE
from pipeline.spec import Needs


@dataclass(frozen=True)
class Settings:
    """Two losses: of labelled images by their labels, and of unlabelled ones by their pseudo-labels."""

    lambda_u: Annotated[float, NOT_NEGATIVE] = 10.0
    """Weight of the pseudo-labelled loss."""
    smoothing: Annotated[float, BELOW_1] = 0.1
    """Label smoothing of the labelled loss."""
    mixup: Annotated[float, NOT_NEGATIVE] = 0.0
    """Mixup of labelled images: shares are drawn from Beta(mixup, mixup); 0: none."""
    cutmix: Annotated[float, NOT_NEGATIVE] = 0.0
    """CutMix of labelled images, for half of the pairs where there is mixup, too."""
    pseudo: Pseudo = field(default_factory=Pseudo)
    """Pseudo-labels of unlabelled images."""
    balance: Balance = field(default_factory=Balance)
    """Classes with many and with few labels."""


@final
class FixMatch(Method):
    """L = L_s + lambda_u L_u (Sohn et al. 2020, eq. 3, 4)."""

    whole_images = True

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes)
        self.settings = recipe.method
        self.teacher(self.settings.pseudo.teacher)  # raises here what would fail at the first pseudo-label
        self.balance = build_balance(self.settings.balance, classes)
        self.pseudo = PseudoLabels(
            self.settings.pseudo, classes, self.encoder, self.settings.balance.of_unlabelled(self.balance)
        )
        self.one_pass = one_pass(self.encoder, self.settings.pseudo)

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Labelled images; weak and strong views of unlabelled ones."""
        return Needs(labelled=True, unlabelled=True, strong=True)

    def startup_note(self) -> str | None:
        """Return the note of the pseudo-labels."""
        return self.pseudo.startup_note()

    def pass_holds(self) -> str:
        """Labelled images and strong views; the weak views, too, where they go through the network with these."""
        return "labelled images, weak and strong views" if self.one_pass else "labelled images and strong views"

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Label and pseudo-label loss of one packed pass; in the labels-only phase the first alone."""
        labelled, unlabelled, s = batch.labelled, batch.unlabelled, self.settings
        assert labelled is not None
        images, labels = mixed(labelled, self.encoder, random_pairs, s.mixup, s.cutmix)
        if info.labels_only:
            return labels_only(self.encoder, images, labels, s.smoothing, self.balance)

        assert unlabelled is not None
        assert unlabelled.strong is not None
        if self.one_pass:
            views = [FullImages(images), FullImages(unlabelled.weak), FullImages(unlabelled.strong)]
            logits, weak, strong = classify(self.encoder, encode(self.encoder, views))
            targets = self.pseudo(weak.detach(), unlabelled)
        else:
            scores = eval_logits(self.teacher(s.pseudo.teacher), unlabelled.weak)  # a forward pass without gradient
            targets = self.pseudo(scores, unlabelled)
            # rejected images would have a gradient of exactly zero, so targets.strong leaves them out of the encoder
            logits, strong = classify(self.encoder, encode(self.encoder, [FullImages(images), targets.strong]))
        label = label_loss(logits, labels, s.smoothing, self.balance)  # eq. 3
        pseudo = self.pseudo.loss(strong, targets)  # eq. 4
        self.pseudo.observe_labelled(logits, labelled.labels)
        return Loss(label + s.lambda_u * pseudo, {"label": label.detach(), "pseudo": pseudo.detach()}, targets.stats)


def one_pass(network: nn.Module, pseudo: Pseudo) -> bool:
    """Say whether weak views go through the network together with the views that learn: in a classifier of timm with
    batch norm, where it is its own teacher (FixMatch's code). Mixtures are made of what the weak views were found to
    be, so that these go first."""
    batch_norm = isinstance(network, TimmClassifier) and network.batch_norms() > 0
    return batch_norm and pseudo.teacher == "self" and not pseudo.mixup


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, ViT of 4 x 64: the middle of the ladder."""
    return Recipe(
        Settings(lambda_u=1.0, smoothing=0.0, pseudo=Pseudo(0.7, teacher="ema")),  # ours, chosen on val
        small.digits_data(),
        small.digits_encoder(),
        small.digits_optim(),
    )


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, a small ViT, 1,000 steps: the middle of the ladder."""
    return Recipe(
        # ours, chosen on val: at section 4's 0.95 no pseudo-label passes in 1,000 steps; teacher: as on digits
        Settings(lambda_u=1.0, smoothing=0.0, pseudo=Pseudo(0.7, teacher="ema")),
        small.cifar10_data(),
        small.cifar10_encoder(),
        small.cifar10_optim(),
    )


def digits_resnet() -> Recipe[Settings]:
    """fixmatch:digits on a small ResNet of timm.  Here: not yet run to its end."""
    return replace(digits(), encoder=small.resnet_encoder())


def cifar10_resnet() -> Recipe[Settings]:
    """fixmatch:cifar10 on a small ResNet of timm.  Here: not yet run."""
    return replace(cifar10(), encoder=small.resnet_encoder())


def cifar10_tiny() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, ViT-Tiny/4, 40,000 steps.  Here: not yet run."""
    return Recipe(
        Settings(lambda_u=1.0, smoothing=0.0, pseudo=Pseudo(0.95)),  # section 4
        small.cifar10_tiny_data(),
        small.cifar10_tiny_encoder(),
        small.cifar10_tiny_optim(),
    )


def few() -> Recipe[Settings]:
    """Your photographs from --run.start, a foundation model, few of them with a label.  Here: not yet run."""
    return Recipe(
        Settings(lambda_u=1.0, smoothing=0.1, pseudo=few_labels.pseudo("labels", momentum=0.99)),  # weight: USB
        few_labels.data(),
        few_labels.encoder(),
        few_labels.optim(1e-4, steps=1500, warmup=100, labels_only=300),
        few_labels.run(),
    )


def cifar10_few() -> Recipe[Settings]:
    """CIFAR-10, 40 labels, from --run.start, a ViT-S/14, at 70 pixels: eight minutes on one core."""
    return Recipe(
        Settings(lambda_u=1.0, smoothing=0.1, pseudo=few_labels.pseudo("uniform", momentum=0.9)),  # ours, chosen on val
        few_labels.cifar10_data(),
        few_labels.encoder(),
        few_labels.optim(1e-4, steps=300, warmup=10, labels_only=60, ema_decay=0.95),
    )


def in1k_10pct() -> Recipe[Settings]:
    """ImageNet, 10 % of the labels, ViT-S from scratch with Semiformer's settings.  Here: not yet run."""
    return Recipe(
        Settings(lambda_u=10.0, smoothing=0.1, pseudo=Pseudo(0.7)),  # Semiformer code; lambda: Semi-MAE section 4
        in1k.data_10pct(),
        in1k.encoder_10pct(),
        in1k.semiformer_optim(),
        in1k.run(),
    )


def in1k_10pct_r50() -> Recipe[Settings]:
    """fixmatch:in1k_10pct on a ResNet-50, as in Semi-MAE's Table 1.  Paper: 71.5 %.  Here: not yet run.

    All but the network is as there, so that rows differ in one thing; optimiser and views are not those of the
    papers that first reported a ResNet-50.
    """
    return replace(in1k_10pct(), encoder=Encoder("resnet50"))


def digits_thresholds() -> Iterator[Recipe[Settings]]:
    """Embedded digits: a fixed threshold, FlexMatch, FreeMatch, SoftMatch, AdaMatch.  Here: not yet run.

    Each as its authors combine it."""
    return _thresholds(digits())


def cifar10_thresholds() -> Iterator[Recipe[Settings]]:
    """CIFAR-10, 4,000 labels, a small ViT: the same five.  Here: not yet run."""
    return _thresholds(cifar10())


def _thresholds(recipe: Recipe[Settings]) -> Iterator[Recipe[Settings]]:
    """Yield the recipe with each threshold, and the recipe's teacher."""
    fixed = recipe.method.pseudo
    for pseudo in (fixed, FLEXMATCH, FREEMATCH, SOFTMATCH, ADAMATCH):
        yield replace(recipe, method=replace(recipe.method, pseudo=replace(pseudo, teacher=fixed.teacher)))
