"""Distribution alignment: shift predictions on unlabelled images until their running mean is a target distribution."""

from typing import final

import torch
from torch import Tensor

from models.pseudo_labels.settings import AlignTo
from models.running_stats import RunningStats, move

TINY = 1e-6  # SoftMatch's and AdaMatch's code


@final
class Alignment(RunningStats):
    """Alignment p' = normalise(p · target / mean) (ReMixMatch: Berthelot et al. 2020, section 3.1; AdaMatch).

    aligned = Alignment("uniform", classes=10, momentum=0.999)(logits)

    mean    float [C]   running mean of the predictions; after the first step that step's mean
    target  float [C]   uniform, or a running mean over labelled images: of their labels or of the predictions on them
    """

    def __init__(self, kind: AlignTo, classes: int, momentum: float) -> None:
        super().__init__()
        self.kind, self.momentum = kind, momentum
        self.register_buffer("mean", torch.full((classes,), 1 / classes))
        self.register_buffer("target", torch.full((classes,), 1 / classes))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def forward(self, logits: Tensor) -> Tensor:
        """Align logits float [N, C] -> logits of the aligned probabilities; adds to the step's sums."""
        self._add(logits.softmax(-1), 0)
        return logits + ((self.target + TINY) / (self.mean + TINY)).log().to(logits.dtype)

    def observe_labelled(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add labelled images to the step's sums: the predictions on them, float [M, C], or their labels, i64 [M]."""
        if self.kind == "labels":
            truth = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1.0)
            self._add(truth, 1)
        elif self.kind == "predictions":
            self._add(probabilities, 1)

    def update(self, combined: Tensor) -> None:
        """Move mean and target by the step's numbers of images and sums of probabilities, f64 [2, 1 + C]."""
        momentum = self.momentum * self.begun  # the first means replace the uniform ones
        for row, running in enumerate((self.mean, self.target)):
            images = combined[row, 0]
            mean = combined[row, 1:] / images.clamp_min(1)
            move(running, mean, torch.where(images > 0, momentum, 1.0))
        self.begun.fill_(True)

    def _add(self, probabilities: Tensor, row: int) -> None:
        totals = torch.cat([torch.ones_like(probabilities[:, :1]), probabilities], 1).double().sum(0)
        self.pending.append(torch.stack([totals if row == each else torch.zeros_like(totals) for each in range(2)]))
