"""FreeMatch's thresholds: one a class, rising with the mean confidence (Wang et al. 2023)."""

from typing import final

import torch
from torch import Tensor

from models.pseudo_labels.thresholds.threshold import Threshold
from models.running_stats import move


@final
class FreeMatch(Threshold):
    """Weight 1 from the class's self-adaptive threshold on, else 0 (eq. 5 to 7): the mean confidence, lower for rarer
    classes.

    The paper updates the statistics with a step's images before it weighs them. Here they are those of the steps
    before, so that all ranks and micro-batches use the same.

    level   float []    running mean of the confidence, from 1 / C
    prior   float [C]   running mean of the probabilities, from 1 / C
    chosen  float [C]   running shares of the most likely classes, from 1 / C
    """

    def __init__(self, classes: int, momentum: float, fairness: float) -> None:
        super().__init__()
        self.momentum, self.fairness = momentum, fairness
        self.register_buffer("level", torch.tensor(1 / classes))
        self.register_buffer("prior", torch.full((classes,), 1 / classes))
        self.register_buffer("chosen", torch.full((classes,), 1 / classes))

    def weigh(self, confidence: Tensor, classes: Tensor) -> Tensor:
        """Compare the confidence with the threshold of its class."""
        thresholds = self.level * self.prior / self.prior.max()
        return (confidence >= thresholds[classes]).to(confidence.dtype)

    def observe(self, ids: Tensor, probabilities: Tensor) -> None:
        """Add number, confidence, probabilities and most likely classes to the step's sums."""
        confidence, classes = probabilities.double().max(-1)
        total = torch.stack([torch.ones_like(confidence).sum(), confidence.sum()])
        self.pending.append(torch.cat([total, probabilities.double().sum(0), shares(classes, probabilities)]))

    def update(self, combined: Tensor) -> None:
        """Move the running means by the step's sums, f64 [2 + 2 C]."""
        images, confidence, probabilities, chosen = combined.split([1, 1, len(self.prior), len(self.prior)])
        move(self.level, (confidence / images).squeeze(0), self.momentum)
        move(self.prior, probabilities / images, self.momentum)
        move(self.chosen, chosen / images, self.momentum)

    def extra_loss(self, logits: Tensor, weights: Tensor) -> Tensor | None:
        """Return the self-adaptive fairness (eq. 11): minus the cross-entropy of the prior, over its shares, and of the
        strong views' mean, over theirs; of those that passed, and 0 where none did.

        It is no mean over images: over several ranks or micro-batches it is the mean of theirs, as in the authors'
        code.
        """
        if not self.fairness:
            return None
        probabilities = logits.softmax(-1)
        passed = weights.sum()
        mean = (probabilities * weights[:, None]).sum(0) / passed.clamp_min(1)
        chosen = shares(probabilities.argmax(-1), probabilities, weights)
        now = normed(mean * inverse(chosen))
        before = normed(self.prior * inverse(self.chosen))
        return (self.fairness * (before * torch.log(now + 1e-12)).sum() * (passed > 0)).to(logits.dtype)


def shares(classes: Tensor, probabilities: Tensor, weights: Tensor | None = None) -> Tensor:
    """Count the images, or add up their weights, by class: [C], without a host sync."""
    ones = torch.ones_like(classes, dtype=torch.float64) if weights is None else weights.double()
    return torch.zeros_like(probabilities[:0].double().sum(0)).index_add_(0, classes, ones)


def inverse(counts: Tensor) -> Tensor:
    """1 over each count, 0 where it is 0."""
    return torch.where(counts > 0, 1 / counts.clamp_min(1e-12), 0.0)


def normed(values: Tensor) -> Tensor:
    """Scale to a sum of 1."""
    return values / values.sum().clamp_min(1e-12)
