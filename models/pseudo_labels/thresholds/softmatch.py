"""SoftMatch's weights: a truncated Gaussian of the confidence, about its running mean (Chen et al. 2023)."""

from typing import ClassVar, final

import torch
from torch import Tensor

from models.pseudo_labels.thresholds.threshold import Threshold
from models.running_stats import move

SPREADS = 2.0  # section 4.1: the variance over 4, so that weights fade within two deviations


@final
class SoftMatch(Threshold):
    """Weight exp(-(confidence - mean)² / (2 (spread / 2)²)) below the mean, 1 above (eq. 9, section 4.1 for the 2).

    mean, variance  float []  running ones of the confidence of aligned predictions (USB), from 1 / C and 1 (eq. 7,
                              unbiased variance of a step)
    """

    rejects: ClassVar[bool] = False

    def __init__(self, classes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.tensor(1 / classes))
        self.register_buffer("variance", torch.ones(()))

    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        """Weigh the confidence by the truncated Gaussian."""
        below = (confidence - self.mean).clamp(max=0)
        return torch.exp(-below.square() / (2 * self.variance / SPREADS**2))

    def observe(self, ids: Tensor, probabilities: Tensor) -> None:
        """Add number, confidence and its square to the step's sums."""
        confidence = probabilities.amax(-1).double()
        self.pending.append(torch.stack([torch.ones_like(confidence), confidence, confidence.square()]).sum(1))

    def update(self, combined: Tensor) -> None:
        """Move mean and variance by the step's sums, f64 [3]."""
        images, total, squares = combined
        move(self.mean, total / images, self.momentum)
        unbiased = (squares - total.square() / images) / (images - 1).clamp_min(1)
        move(self.variance, unbiased.clamp_min(0), self.momentum)
