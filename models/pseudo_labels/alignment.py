"""Distribution alignment: guesses on unlabelled images are tilted towards a mean that they should have."""

from typing import final

import torch
from torch import Tensor

from models.pseudo_labels.settings import Target
from models.running_stats import RunningStats, move

TINY = 1e-6  # authors' code: of SoftMatch and AdaMatch


@final
class Alignment(RunningStats):
    """p' = normalise(p · target / mean) (ReMixMatch: Berthelot et al. 2020, section 3.1; AdaMatch).

    mean    float [C]   running mean of the guesses; the first step's to begin with
    target  float [C]   uniform, or a running mean over labelled images: of their labels or of the predictions on them
    """

    def __init__(self, kind: Target, classes: int, momentum: float) -> None:
        super().__init__()
        self.kind, self.momentum = kind, momentum
        self.register_buffer("mean", torch.full((classes,), 1 / classes))
        self.register_buffer("target", torch.full((classes,), 1 / classes))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def forward(self, logits: Tensor) -> Tensor:
        """Logits float [N, C] -> logits of the aligned probabilities; remembers what it saw."""
        self._saw(logits.softmax(-1), 0)
        return logits + ((self.target + TINY) / (self.mean + TINY)).log().to(logits.dtype)

    def observe_labelled(self, probabilities: Tensor, labels: Tensor) -> None:
        """Look at labelled images: what the network makes of them, float [M, C], and what they are, i64 [M]."""
        if self.kind == "labels":
            truth = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1.0)
            self._saw(truth, 1)
        elif self.kind == "predictions":
            self._saw(probabilities, 1)

    def update(self, seen: Tensor) -> None:
        momentum = self.momentum * self.begun  # the first means replace the uniform ones
        for row, running in enumerate((self.mean, self.target)):
            images = seen[row, 0]
            now = seen[row, 1:] / images.clamp_min(1)
            move(running, now, torch.where(images > 0, momentum, 1.0))
        self.begun.fill_(True)

    def _saw(self, probabilities: Tensor, row: int) -> None:
        totals = torch.cat([torch.ones_like(probabilities[:, :1]), probabilities], 1).double().sum(0)
        self.pending.append(torch.stack([totals if row == each else torch.zeros_like(totals) for each in range(2)]))
