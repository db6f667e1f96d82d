"""Semiformer: FixMatch on a transformer coupled to a convolutional network (Weng et al. 2022), with an MAE branch as in
Semi-MAE's Table 2 where mu is above 0.

What its authors' code does and this offers as a field: which stream labels (`stream`), the class token that every
coupling doubles (`double_class_token`). Batch norm mixes the images of a micro-batch: all strong views go through the
network, those whose guess is rejected included, and so the result depends on `run.device_images` and on the number of
devices.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, final

from torch import Tensor, cat, nn

from models.config.recipe import Encoder, Recipe
from models.losses import at_least_f32, label_loss
from models.masked.base import Reconstruct
from models.method import Loss, Method, StepInfo, touch_for_ddp
from models.methods.presets.shared import (
    digits_data,
    digits_decoder,
    digits_optim,
    in1k_10pct_data,
    in1k_run,
    semiformer_data,
    semiformer_optim,
)
from models.pseudo_labels.pseudo_label import PseudoLabels
from models.pseudo_labels.settings import Pseudo
from models.semiformer.build import build_semiformer
from models.semiformer.masked import StreamMAE
from models.semiformer.model import Semiformer, eval_logits
from models.semiformer.statistics import share_statistics
from pipeline.batch import Batch
from pipeline.flags import AT_LEAST_1, BELOW_1, NOT_NEGATIVE
from pipeline.spec import Needs


@dataclass(frozen=True)
class Settings:
    """Two streams, two heads, one pseudo-label."""

    pseudo: Pseudo = field(default_factory=lambda: Pseudo(threshold=0.7))
    """Who labels and when it is believed; defaults are Semiformer's code: the network itself in eval mode, from 0.7."""
    lambda_u: Annotated[float, NOT_NEGATIVE] = 4.0
    """Weight of the pseudo-labelled loss (Semiformer's scripts; its default, and Semi-MAE: 10)."""
    mu: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the reconstruction loss; 0 is Semiformer itself, without a masked branch."""
    smoothing: Annotated[float, BELOW_1] = 0.1
    """Label smoothing of the labelled loss (Semiformer code)."""
    stream: Literal["conv", "transformer", "fused"] = "conv"
    """Whose guess labels both streams: the convolutional head's (Semiformer's scripts), the transformer's, or the
    softmax of the two heads' summed logits, which is also what is evaluated."""
    channels: Annotated[int, AT_LEAST_1] = 256
    """Channels of the convolutional stream's first third; they double with every third (Semiformer code)."""
    double_class_token: bool = True
    """Each coupling doubles the class token, as in the authors' code that the published numbers come from; off adds
    nothing to it."""
    reconstruct: Reconstruct = field(default_factory=Reconstruct)
    """The masked branch's decoder and target."""


@final
class SemiformerFixMatch(Method):
    """L = mean over both heads of (L_s + lambda_u L_u), + mu L_MAE; the pseudo-label is one for both."""

    encoder: Semiformer

    def __init__(self, recipe: Recipe[Settings], classes: int) -> None:
        super().__init__(recipe, classes)
        self.settings = recipe.method
        self.teacher(self.settings.pseudo.teacher)  # refuse at once what would fail at the first pseudo-label
        self.pseudo = PseudoLabels(self.settings.pseudo, classes, self.encoder)
        if self.settings.mu:
            self.reconstruction = StreamMAE(self.encoder, self.settings.reconstruct, recipe.data.mask)

    @staticmethod
    def needs(recipe: Recipe[Settings]) -> Needs:
        return Needs(labelled=True, unlabelled=True, strong=True, unlabelled_visible=recipe.method.mu > 0)

    @staticmethod
    def build(recipe: Recipe[Settings], classes: int) -> Semiformer:
        s = recipe.method
        return build_semiformer(recipe, classes, channels=s.channels, double_class_token=s.double_class_token)

    def inactive_params(self, now: StepInfo) -> Iterable[nn.Parameter]:
        return self.reconstruction.parameters() if self.settings.mu and now.labels_only else ()

    def startup_note(self) -> str:
        who = {"conv": "the convolutional head labels", "transformer": "the transformer's head labels"}
        said = who.get(self.settings.stream, "the sum of both heads' logits labels") + " both streams"
        return f"{said}; {self.pseudo.startup_note()}" if self.pseudo.startup_note() else said

    def logits(self, images: Tensor) -> Tensor:
        """The two heads' summed logits, as the authors evaluate."""
        return stream("fused", *eval_logits(self.eval_encoder, images))

    def after_step(self, step: int) -> None:
        share_statistics(self.encoder)
        super().after_step(step)

    def forward(self, batch: Batch, now: StepInfo) -> Loss:
        known, unknown, s = batch.labelled, batch.unlabelled, self.settings
        if now.labels_only:
            label = mean_of(self.encoder(known.images), lambda logits: label_loss(logits, known.labels, s.smoothing))
            rest = touch_for_ddp(self.reconstruction) if s.mu else 0.0
            return Loss(label + rest, {"label": label.detach()})

        scores = stream(
            s.stream, *eval_logits(self.teacher(s.pseudo.teacher), unknown.weak)
        )  # only looked at: no gradient
        targets = self.pseudo(scores, unknown)
        # one train-mode pass: batch norm sees both kinds
        heads = self.encoder(cat([self.encoder.pixels(images) for images in (known.images, targets.strong.images)]))
        n = len(known.labels)
        self.pseudo.labelled(stream(s.stream, *heads)[:n], known.labels)
        label = mean_of(heads, lambda logits: label_loss(logits[:n], known.labels, s.smoothing))
        pseudo = mean_of(heads, lambda logits: self.pseudo.loss(logits[n:], targets))
        total, parts = label + s.lambda_u * pseudo, {"label": label.detach(), "pseudo": pseudo.detach()}
        if s.mu:
            rebuilt = self.reconstruction(self.encoder, unknown.weak, unknown.visible)
            total, parts = total + s.mu * rebuilt, parts | {self.reconstruction.target.name: rebuilt.detach()}
        return Loss(total, parts, targets.shown)


def mean_of(heads: tuple[Tensor, Tensor], loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Each head's loss, halved."""
    conv, transformer = heads
    return (loss(conv) + loss(transformer)) / 2


def stream(name: Literal["conv", "transformer", "fused"], conv: Tensor, transformer: Tensor) -> Tensor:
    """The logits [N, classes] that label, in f32 or more."""
    conv, transformer = at_least_f32(conv), at_least_f32(transformer)
    return {"conv": conv, "transformer": transformer, "fused": conv + transformer}[name]


def digits() -> Recipe[Settings]:
    """Embedded digits, 5 labels a class, 4 stages of width 64, 32 to 128 channels: 0.4 M.  Here: only begun.

    About 10 minutes of one core.
    """
    return Recipe(
        Settings(Pseudo(threshold=0.7, teacher="ema"), lambda_u=1.0, smoothing=0.0, channels=32),  # ours
        digits_data(),
        Encoder(None, width=64, depth=4, heads=4, patch=4, position="none"),
        digits_optim(),
    )


def digits_mae() -> Recipe[Settings]:
    """semiformer:digits with the masked branch, and positions for it.  Here: 300 of its steps."""
    plain = digits()
    return replace(
        plain,
        method=replace(plain.method, mu=3.0, reconstruct=digits_decoder()),  # ours, as semi_mae:digits
        encoder=replace(plain.encoder, position="sincos"),
    )


def in1k_10pct() -> Recipe[Settings]:
    """ImageNet, 10 % of the labels, Semiformer small (41.7 M).  Paper: 75.5 % top-1.  Here: not yet run."""
    return Recipe(
        Settings(),  # Semiformer's scripts
        semiformer_data(),
        Encoder("semiformer_small", patch=16, position="none", drop_path=0.1),  # Semiformer code
        semiformer_optim(epochs=600, labels_only_epochs=30),  # Semiformer's scripts
        in1k_run(),
    )


def in1k_10pct_mae() -> Recipe[Settings]:
    """Semiformer with an MAE branch.  Paper: 76.4 % top-1 (Semi-MAE Table 2).  Here: not yet run.

    Without couplings the transformer's stream knows no positions but those in the decoder; whether the paper gave it
    any is not said. Here it has MAE's; `--encoder.position none` does without.
    """
    return Recipe(
        Settings(lambda_u=10.0, mu=5.0),  # Semi-MAE section 4; the rest: Semiformer code
        in1k_10pct_data(),
        Encoder("semiformer_small", patch=16, position="sincos", drop_path=0.1),  # positions: ours
        semiformer_optim(),  # Semi-MAE section 4
        in1k_run(),
    )
