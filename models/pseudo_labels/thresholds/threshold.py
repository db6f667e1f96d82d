"""Threshold: the weight of each pseudo-label in the loss; Fixed: FixMatch's, one number for all classes and steps."""

from abc import ABC, abstractmethod
from typing import ClassVar, final

from torch import Tensor

from models.running_stats import RunningStats


class Threshold(RunningStats, ABC):
    """The weight of each pseudo-label, by its confidence and by statistics of the steps before.

    weights = threshold.weigh(confidence, classes)   # float [N] -> float [N] in 0..1
    threshold.observe(ids, probabilities)            # for the statistics, which change after the step

    rejects  whether a weight can be exactly 0, so that the image may be left out of the network
    """

    rejects: ClassVar[bool] = True

    @abstractmethod
    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        """Weigh pseudo-labels, confidence float [N] and classes i64 [N]: float [N], from 0 (rejected) to 1."""

    def observe(self, ids: Tensor, probabilities: Tensor) -> None:
        """Take the predictions on unlabelled images into the statistics: ids i64 [N], probabilities float [N, C]."""

    def observe_labelled(self, probabilities: Tensor) -> None:
        """Take the predictions on labelled images into the statistics: float [M, C]."""

    def extra_loss(self, logits: Tensor, weights: Tensor) -> Tensor | None:
        """Return a further loss [] of strong views, logits float [n, C] and weights float [n]; None: there is none."""
        return None


@final
class Fixed(Threshold):
    """Weight 1 from the threshold on, else 0 (FixMatch: Sohn et al. 2020, eq. 4).

    FixMatch writes "greater or equal", Semi-MAE "greater", which differ at equality alone.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        """Compare the confidence with the threshold."""
        return (confidence >= self.threshold).to(confidence.dtype)
