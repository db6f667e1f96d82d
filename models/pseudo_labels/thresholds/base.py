"""The seam: guesses in, a weight for each out."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from models.running_stats import RunningStats


class Threshold(RunningStats, ABC):
    """How much each pseudo-label counts in this step, judged by what the steps before have left behind.

    rejects  whether weights may be exactly 0, so that images can be left out of the network
    """

    rejects: ClassVar[bool] = True

    @abstractmethod
    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        """Weights float [N], from 0 (rejected) to 1, of guesses: confidence float [N], classes i64 [N]."""

    def observe(self, ids: Tensor, probabilities: Tensor) -> None:
        """Look at guesses to learn from: ids i64 [N], probabilities float [N, C]."""

    def observe_labelled(self, probabilities: Tensor) -> None:
        """Look at what the network makes of labelled images: float [M, C]."""

    def extra_loss(self, logits: Tensor, weights: Tensor) -> Tensor | None:
        """A further term of strong views that have a weight (logits float [n, C], weights float [n]), if any."""
        return None
