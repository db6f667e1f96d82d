"""Semiformer: FixMatch on a transformer coupled to a convolutional network (Weng et al. 2022), with an MAE branch as in
Semi-MAE's Table 2 where mu is above 0.

Two properties of its authors' code are fields: which stream labels (`stream`), and the class token that every coupling
doubles (`double_class_token`). Batch norm mixes the images of a micro-batch, so that rejected strong views go through
the network, too, and the result depends on `run.device_images` and on the number of devices.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, final

from torch import Tensor, cat, nn

from models.config.recipe import Encoder, Recipe
from models.losses import at_least_f32, label_loss
from models.masked.settings import Reconstruct
from models.method import Loss, Method, StepInfo, touch_for_ddp
from models.methods.balance import Balance, build_balance
from models.methods.presets import in1k, small
from models.pseudo_labels.pseudo_label import PseudoLabels
from models.pseudo_labels.settings import Pseudo
from models.running_stats import share_statistics
from models.semiformer.branch import StreamBranch
from models.semiformer.build import build_semiformer
from models.semiformer.model import Semiformer, eval_logits
from pipeline.batch import Batch
from pipeline.flags import AT_LEAST_1, BELOW_1, NOT_NEGATIVE
from pipeline.spec import Needs


@dataclass(frozen=True)
class Settings:
    """Losses of two streams, each with a head, on one pseudo-label."""

    pseudo: Pseudo = field(default_factory=lambda: Pseudo(threshold=0.7))
    """Pseudo-labels of unlabelled images; defaults are Semiformer's code: by the network in eval mode, from 0.7 on."""
    lambda_u: Annotated[float, NOT_NEGATIVE] = 4.0
    """Weight of the pseudo-labelled loss (Semiformer's scripts; its default, and Semi-MAE: 10)."""
    mu: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the reconstruction loss; 0 is Semiformer itself, without a masked branch."""
    smoothing: Annotated[float, BELOW_1] = 0.1
    """Label smoothing of the labelled loss (Semiformer code)."""
    stream: Literal["conv", "transformer", "fused"] = "conv"
    """Whose prediction labels both streams: the convolutional head's (Semiformer's scripts), the transformer's, or that
    of the two heads' summed logits, which is evaluated in any case."""
    channels: Annotated[int, AT_LEAST_1] = 256
    """Channels of the convolutional stream's first third; they double with every third (Semiformer code)."""
    double_class_token: bool = True
    """Let each coupling double the class token, as in the authors' code, which the published numbers are of; off leaves
    it as it is."""
    reconstruct: Reconstruct = field(default_factory=Reconstruct)
    """The masked branch's decoder and target."""
    balance: Balance = field(default_factory=Balance)
    """Classes with many and with few labels."""


@final
class SemiformerFixMatch(Method):
    """L = mean over both heads of (L_s + lambda_u L_u), + mu L_MAE; the pseudo-label is one for both."""

    encoder: Semiformer

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes)
        self.settings = recipe.method
        self.teacher(self.settings.pseudo.teacher)  # raises here what would fail at the first pseudo-label
        self.balance = build_balance(self.settings.balance, classes)
        self.pseudo = PseudoLabels(
            self.settings.pseudo, classes, self.encoder, self.settings.balance.of_unlabelled(self.balance)
        )
        if self.settings.mu:
            StreamBranch.check_mask(recipe.data.mask)
            self.branch = StreamBranch(self.encoder, self.settings.reconstruct)

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        """Labelled images; weak and strong views of unlabelled ones; with a branch, visible patches of the weak."""
        return Needs(labelled=True, unlabelled=True, strong=True, unlabelled_visible=recipe.method.mu > 0)

    @classmethod
    def build(cls, recipe: Recipe[Settings], classes: int) -> Semiformer:
        """Build the Semiformer of a recipe."""
        s = recipe.method
        return build_semiformer(recipe, classes, channels=s.channels, double_class_token=s.double_class_token)

    def inactive_params(self, info: StepInfo) -> Iterable[nn.Parameter]:
        """Return the branch's parameters in the labels-only phase."""
        return self.branch.parameters() if self.settings.mu and info.labels_only else ()

    def startup_note(self) -> str:
        """Name the stream that labels, and add the note of the pseudo-labels."""
        who = {"conv": "the convolutional head labels", "transformer": "the transformer's head labels"}
        note = who.get(self.settings.stream, "the sum of both heads' logits labels") + " both streams"
        return f"{note}; {self.pseudo.startup_note()}" if self.pseudo.startup_note() else note

    def logits(self, images: Tensor) -> Tensor:
        """Compute the two heads' summed logits, as the authors evaluate."""
        return stream("fused", *eval_logits(self.eval_encoder, images))

    def after_step(self, step: int) -> None:
        """Share batch norm's running statistics between ranks, then update the average."""
        share_statistics(self.encoder)
        super().after_step(step)

    def forward(self, batch: Batch, info: StepInfo) -> Loss:
        """Label, pseudo-label and, with a branch, reconstruction loss; in the labels-only phase the first alone."""
        labelled, unlabelled, s = batch.labelled, batch.unlabelled, self.settings
        assert labelled is not None
        labels, n = labelled.labels, len(labelled.labels)
        if info.labels_only:
            label = mean_of(
                self.encoder(labelled.images), lambda logits: label_loss(logits, labels, s.smoothing, self.balance)
            )
            zero = touch_for_ddp(self.branch) if s.mu else 0.0
            return Loss(label + zero, {"label": label.detach()})

        assert unlabelled is not None
        scores = stream(s.stream, *eval_logits(self.teacher(s.pseudo.teacher), unlabelled.weak))  # without gradient
        targets = self.pseudo(scores, unlabelled)
        # one train-mode pass, so that batch norm has the statistics of both kinds
        heads = self.encoder(cat([self.encoder.pixels(images) for images in (labelled.images, targets.strong.images)]))
        self.pseudo.observe_labelled(stream(s.stream, *heads)[:n], labels)
        label = mean_of(heads, lambda logits: label_loss(logits[:n], labels, s.smoothing, self.balance))
        pseudo = mean_of(heads, lambda logits: self.pseudo.loss(logits[n:], targets))
        total, parts = label + s.lambda_u * pseudo, {"label": label.detach(), "pseudo": pseudo.detach()}
        if s.mu:
            pixels = self.branch.loss(self.encoder, unlabelled, info.step)
            total, parts = total + s.mu * pixels, parts | {self.branch.target.name: pixels.detach()}
        return Loss(total, parts, targets.stats)


def mean_of(heads: tuple[Tensor, Tensor], loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Average the loss over both heads' logits."""
    conv, transformer = heads
    return (loss(conv) + loss(transformer)) / 2


def stream(name: Literal["conv", "transformer", "fused"], conv: Tensor, transformer: Tensor) -> Tensor:
    """Choose the logits [N, classes] that label, or add them, in f32 or f64."""
    conv, transformer = at_least_f32(conv), at_least_f32(transformer)
    return {"conv": conv, "transformer": transformer, "fused": conv + transformer}[name]


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, 4 stages of width 64, 32 to 128 channels: 0.4 M.  Here: only begun.

    About 10 minutes of one core.
    """
    return Recipe(
        Settings(Pseudo(threshold=0.7, teacher="ema"), lambda_u=1.0, smoothing=0.0, channels=32),  # ours
        small.digits_data(),
        Encoder(None, width=64, depth=4, heads=4, patch=4, position="none"),
        small.digits_optim(),
    )


def digits_mae() -> Recipe[Settings]:
    """semiformer:digits with the masked branch, and positions for it.  Here: 300 of its steps."""
    plain = digits()
    return replace(
        plain,
        method=replace(plain.method, mu=3.0, reconstruct=small.digits_decoder()),  # ours, as semi_mae:digits
        encoder=replace(plain.encoder, position="sincos"),
    )


def in1k_10pct() -> Recipe[Settings]:
    """ImageNet, 10 % of the labels, Semiformer small (41.7 M).  Paper: 75.5 % top-1.  Here: not yet run."""
    return Recipe(
        Settings(),  # Semiformer's scripts
        in1k.semiformer_data(),
        Encoder("semiformer_small", patch=16, position="none", drop_path=0.1),  # Semiformer code
        in1k.semiformer_optim(epochs=600, labels_only_epochs=30),  # Semiformer's scripts
        in1k.run(),
    )


def in1k_10pct_mae() -> Recipe[Settings]:
    """Semiformer with an MAE branch.  Paper: 76.4 % top-1 (Semi-MAE Table 2).  Here: not yet run.

    Without couplings the transformer's stream has no positions but the decoder's, and the paper does not say whether it
    was given any. Here it has MAE's; `--encoder.position none` removes them.
    """
    return Recipe(
        Settings(lambda_u=10.0, mu=5.0),  # Semi-MAE section 4; the rest: Semiformer code
        in1k.data_10pct(),
        Encoder("semiformer_small", patch=16, position="sincos", drop_path=0.1),  # positions: ours
        in1k.semiformer_optim(),  # Semi-MAE section 4
        in1k.run(),
    )
