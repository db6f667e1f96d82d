"""Semi-MAE: FixMatch on a ViT, with an MAE branch through the same encoder.

What the paper leaves open is a field with a stated default: the labelled view (data.labelled_view), the unlabelled pool
(data.unlabelled), threshold and teacher (method.pseudo), decoder and normalised pixels (method.reconstruct), positions,
pooling and stochastic depth (encoder). The branch has no stochastic depth, and is off in the labels-only phase.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, final

from torch import nn

from models.config.recipe import Recipe
from models.encoder.vit import FullImages, classify, encode, eval_logits
from models.losses import label_loss
from models.masked.build import Kind, build_branch
from models.masked.settings import Reconstruct
from models.method import Loss, Method, StepInfo
from models.methods.balance import Balance, build_balance
from models.methods.labels_only import labels_only
from models.methods.presets import few as few_labels
from models.methods.presets import in1k, small
from models.methods.presets.masked import digits_units, digits_windows, lomar_mask, with_irpe, with_mask
from models.pseudo_labels.pseudo_label import PseudoLabels
from models.pseudo_labels.settings import Pseudo
from pipeline.batch import Batch
from pipeline.flags import BELOW_1, NOT_NEGATIVE
from pipeline.spec import Mask, Needs


@dataclass(frozen=True)
class Settings:
    """Three losses of one encoder."""

    lambda_u: Annotated[float, NOT_NEGATIVE] = 10.0
    """Weight of the pseudo-labelled loss (section 4)."""
    mu: Annotated[float, NOT_NEGATIVE] = 5.0
    """Weight of the reconstruction loss (section 4)."""
    smoothing: Annotated[float, BELOW_1] = 0.1
    """Label smoothing of the labelled loss (Semiformer code)."""
    pseudo: Pseudo = field(default_factory=Pseudo)
    """Pseudo-labels of unlabelled images; the paper gives no threshold, 0.7 is Semiformer's."""
    balance: Balance = field(default_factory=Balance)
    """Classes with many and with few labels."""
    branch: Kind = "mae"
    """The masked branch: MAE, SimMIM, or LoMaR's windows (which need data.mask.kind window)."""
    reconstruct: Reconstruct = field(default_factory=Reconstruct)
    """The branch's decoder and target; the paper uses "the default settings" of MAE, and pixels as target."""


@final
class SemiMAE(Method):
    """L = L_s + lambda_u L_u + mu L_MAE (eq. 3)."""

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes)
        self.settings = recipe.method
        self.teacher(self.settings.pseudo.teacher)  # raises here what would fail at the first pseudo-label
        self.balance = build_balance(self.settings.balance, classes)
        self.pseudo = PseudoLabels(
            self.settings.pseudo, classes, self.encoder, self.settings.balance.of_unlabelled(self.balance)
        )
        self.branch = build_branch(self.settings.branch, self.encoder, self.settings.reconstruct, recipe.data.mask)

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Labelled images; weak and strong views of unlabelled ones, and visible patches of the weak."""
        return Needs(labelled=True, unlabelled=True, strong=True, unlabelled_visible=True)

    def inactive_params(self, info: StepInfo) -> Iterable[nn.Parameter]:
        """Return the branch's parameters in the labels-only phase."""
        return self.branch.parameters() if info.labels_only else ()

    def startup_note(self) -> str | None:
        """Return the note of the pseudo-labels."""
        return self.pseudo.startup_note()

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Label, pseudo-label and reconstruction loss of one packed pass; in the labels-only phase the first alone."""
        labelled, unlabelled, s = batch.labelled, batch.unlabelled, self.settings
        assert labelled is not None
        if info.labels_only:
            return labels_only(self.encoder, labelled.images, labelled.labels, s.smoothing, self.balance, self.branch)

        assert unlabelled is not None
        scores = eval_logits(self.teacher(s.pseudo.teacher), unlabelled.weak)  # a forward pass without gradient
        targets = self.pseudo(scores, unlabelled)
        visible = self.branch.group(unlabelled.weak, unlabelled.visible, unlabelled.hidden)
        tokens = encode(self.encoder, [FullImages(labelled.images), targets.strong, visible])
        logits, strong_logits = classify(self.encoder, tokens[:2])
        label = label_loss(logits, labelled.labels, s.smoothing, self.balance)  # eq. 1
        pseudo = self.pseudo.loss(strong_logits, targets)  # eq. 2
        pixels = self.branch(tokens[2], unlabelled.weak, unlabelled.visible, unlabelled.hidden)
        self.pseudo.observe_labelled(logits, labelled.labels)
        return Loss(
            label + s.lambda_u * pseudo + s.mu * pixels,  # eq. 3
            {"label": label.detach(), "pseudo": pseudo.detach(), self.branch.target.name: pixels.detach()},
            targets.stats,
        )


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, ViT of 4 x 64: the demo, about two minutes on 2 cores."""
    return Recipe(
        Settings(
            lambda_u=1.0,
            mu=3.0,
            smoothing=0.0,
            pseudo=Pseudo(0.7, teacher="ema"),
            reconstruct=small.digits_decoder(),
        ),  # ours, chosen on val
        small.digits_data(),
        small.digits_encoder(),
        small.digits_optim(),
    )


def cifar10() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, a small ViT, 1,000 steps: the top of the ladder."""
    return Recipe(
        Settings(
            lambda_u=1.0,
            mu=3.0,  # as on digits
            smoothing=0.0,
            pseudo=Pseudo(0.7, teacher="ema"),  # as fixmatch:cifar10
            reconstruct=small.cifar10_decoder(),
        ),
        small.cifar10_data(),
        small.cifar10_encoder(),
        small.cifar10_optim(),
    )


def cifar10_tiny() -> Recipe[Settings]:
    """CIFAR-10, 4,000 labels, ViT-Tiny/4, 40,000 steps.  Here: not yet run."""
    return Recipe(
        Settings(
            lambda_u=1.0,
            mu=5.0,  # section 4
            smoothing=0.0,
            pseudo=Pseudo(0.95),  # as fixmatch:cifar10_tiny
            reconstruct=small.cifar10_tiny_decoder(),
        ),
        small.cifar10_tiny_data(),
        small.cifar10_tiny_encoder(),
        small.cifar10_tiny_optim(),
    )


def in1k_10pct() -> Recipe[Settings]:
    """ImageNet, 10 % of the labels, ViT-S from scratch.  Paper: 75.9 % top-1 (Table 1).  Here: not yet run."""
    return Recipe(
        Settings(),  # section 4; what it leaves open: Semiformer code
        in1k.data_10pct(),
        in1k.encoder_10pct(),
        in1k.semiformer_optim(),
        in1k.run(),
    )


def in1k_10pct_fast() -> Recipe[Settings]:
    """in1k_10pct with a 1-block decoder: 2.0 times fewer FLOPs than USB's step at a 50 % pass rate.  Not yet run."""
    return Recipe(
        Settings(reconstruct=Reconstruct(depth=1)),  # depth: SupMAE Table 2e keeps its accuracy with one block
        in1k.data_10pct(),
        in1k.encoder_10pct(),
        in1k.semiformer_optim(),
        in1k.run(),
    )


def digits_lomar() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, LoMaR's windows for a branch: the analogue of Table 3, same encoder."""
    return _digits_with("lomar", digits_windows())


def digits_simmim() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, SimMIM for a branch."""
    return _digits_with("simmim", digits_units())


def _digits_with(kind: Kind, mask: Mask) -> Recipe[Settings]:
    recipe = digits()
    return replace(recipe, method=replace(recipe.method, branch=kind), data=with_mask(recipe.data, mask))


def in1k_10pct_lomar() -> Recipe[Settings]:
    """in1k_10pct with LoMaR's windows for a branch.  Paper: 76.0 % top-1 (Table 3).  Here: not yet run.

    The paper says no more than the branch's name: windows, target and relative positions, without absolute ones, are
    LoMaR's, and mu is the one of the MAE branch. --encoder.position sincos is the cheap variant.
    """
    return Recipe(
        Settings(branch="lomar", reconstruct=Reconstruct(target="norm_pix")),  # LoMaR code
        with_mask(in1k.data_10pct(), lomar_mask()),
        with_irpe(in1k.encoder_10pct()),
        in1k.semiformer_optim(),
        in1k.run(),
    )


def few() -> Recipe[Settings]:
    """Your photographs from --run.start, a foundation model, few of them with a label.  Here: not yet run."""
    return Recipe(
        Settings(
            lambda_u=1.0,  # as fixmatch:few
            mu=0.5,  # ours: pixels must not undo what the encoder knows
            smoothing=0.1,
            pseudo=few_labels.pseudo("labels", momentum=0.99),
            reconstruct=Reconstruct(depth=1, target="norm_pix"),  # SupMAE Table 2e: one block is enough
        ),
        few_labels.data(),
        few_labels.encoder(),
        few_labels.optim(1e-4, steps=1500, warmup=100, labels_only=300),
        few_labels.run(),
    )


def cifar10_few() -> Recipe[Settings]:
    """CIFAR-10, 40 labels, from --run.start, a ViT-S/14, at 70 pixels: eight minutes on one core."""
    return Recipe(
        Settings(
            lambda_u=1.0,
            mu=0.5,
            smoothing=0.1,
            pseudo=few_labels.pseudo("uniform", momentum=0.9),
            reconstruct=Reconstruct(depth=1, width=192, heads=3, target="norm_pix"),
        ),  # ours, as fixmatch:cifar10_few
        few_labels.cifar10_data(),
        few_labels.encoder(),
        few_labels.optim(1e-4, steps=300, warmup=10, labels_only=60, ema_decay=0.95),
    )
