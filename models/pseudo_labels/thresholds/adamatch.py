"""A threshold relative to how sure the network is of labelled images (AdaMatch: Berthelot et al. 2022)."""

from typing import final

import torch
from torch import Tensor

from models.pseudo_labels.thresholds.base import Threshold
from models.running_stats import move


@final
class AdaMatch(Threshold):
    """1 from threshold times the mean confidence on labelled images on.

    The authors' code takes that mean over the step's weak labelled views; here it is a running mean up to the step
    before, over the labelled views that are trained on (data.labelled_view): no image is seen once more for it.

    confidence  float []  the running mean; 1 until a labelled image was seen
    """

    def __init__(self, threshold: float, momentum: float) -> None:
        super().__init__()
        self.threshold, self.momentum = threshold, momentum
        self.register_buffer("confidence", torch.ones(()))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        return (confidence >= self.threshold * self.confidence).to(confidence.dtype)

    def observe_labelled(self, probabilities: Tensor) -> None:
        confidence = probabilities.amax(-1).double()
        self.pending.append(torch.stack([torch.ones_like(confidence).sum(), confidence.sum()]))

    def update(self, seen: Tensor) -> None:
        images, total = seen
        move(self.confidence, total / images, self.momentum * self.begun)  # the first mean replaces the 1
        self.begun.fill_(True)
