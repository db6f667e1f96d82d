"""What a method is: one module whose forward is the whole objective of one step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from pipeline.batch import Batch


@dataclass(frozen=True)
class Needs:
    """The parts of a batch that a method reads; nothing else is decoded, cut or drawn."""

    labelled: bool = False
    labelled_visible: bool = False
    unlabelled: bool = False
    strong: bool = False
    unlabelled_visible: bool = False


class Moment(NamedTuple):
    """Where in the run a step is."""

    step: int
    labels_only: bool


class Guesses(NamedTuple):
    """Pseudo-labels of one step, for the report: ids, classes i64 [N], passed bool [N]."""

    ids: Tensor
    classes: Tensor
    passed: Tensor


class Loss(NamedTuple):
    """The scalar to descend, its parts by name (detached, on the device), and the pseudo-labels if any."""

    total: Tensor
    parts: dict[str, Tensor]
    guesses: Guesses | None = None


class Method(nn.Module, ABC):
    """An objective and everything that it trains; `encoder` is a timm VisionTransformer."""

    needs: ClassVar[Needs]
    encoder: nn.Module

    @abstractmethod
    def forward(self, batch: Batch, now: Moment) -> Loss:
        """The objective of one (micro-)batch."""

    def logits(self, images: Tensor) -> Tensor | None:
        """Class scores f32 [N, C] of u8 images [N, 3, S, S], or None where the method has no classifier."""
        return None

    def after_step(self, step: int) -> None:  # noqa: B027 -- most methods keep no average
        """Called once after each optimiser update: averages move here."""


def idle(module: nn.Module) -> Tensor:
    """A zero that touches each parameter of a module, so that DDP sees a gradient where a step did not need it."""
    return sum((0.0 * parameter.flatten()[0] for parameter in module.parameters() if parameter.requires_grad), 0.0)
