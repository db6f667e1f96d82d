"""AdaMatch's threshold: relative to the mean confidence on labelled images (Berthelot et al. 2022)."""

from typing import final

import torch
from torch import Tensor

from models.pseudo_labels.thresholds.threshold import Threshold
from models.running_stats import move


@final
class AdaMatch(Threshold):
    """Weight 1 from threshold times the mean confidence on labelled images on, else 0.

    The authors' code takes that mean over the step's weak labelled views. Here it is a running mean up to the step
    before, over the labelled views that are trained on (data.labelled_view), which costs no further forward pass.

    confidence  float []  the running mean; 1 before the first labelled image
    """

    def __init__(self, threshold: float, momentum: float) -> None:
        super().__init__()
        self.threshold, self.momentum = threshold, momentum
        self.register_buffer("confidence", torch.ones(()))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        """Compare the confidence with the threshold times the running mean."""
        return (confidence >= self.threshold * self.confidence).to(confidence.dtype)

    def observe_labelled(self, probabilities: Tensor) -> None:
        """Add the confidence on labelled images, float [M, C], to the step's sums."""
        confidence = probabilities.amax(-1).double()
        self.pending.append(torch.stack([torch.ones_like(confidence).sum(), confidence.sum()]))

    def update(self, combined: Tensor) -> None:
        """Move the running mean by the step's number of images and sum of confidence, f64 [2]."""
        images, total = combined
        move(self.confidence, total / images, self.momentum * self.begun)  # the first mean replaces the 1
        self.begun.fill_(True)
