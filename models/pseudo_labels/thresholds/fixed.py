"""One threshold for all classes and times (FixMatch: Sohn et al. 2020, eq. 4)."""

from typing import final

from torch import Tensor

from models.pseudo_labels.thresholds.base import Threshold


@final
class Fixed(Threshold):
    """1 from the threshold on.

    FixMatch writes "greater or equal", Semi-MAE "greater": f32 tells them apart only at equality.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        return (confidence >= self.threshold).to(confidence.dtype)
