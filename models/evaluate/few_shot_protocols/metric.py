"""Metrics of a data set: accuracy, or the mean of the classes' accuracies."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Metric = Literal["accuracy", "per_class"]
"""Share of images, or the mean over the classes that occur of each one's share (ELEVATER: "mean-per-class").

ELEVATER's two others are left out: VOC2007's 11-point mAP needs several labels an image, which a .beton has no room
for, and Hateful Memes' area under the ROC curve needs its text.
"""


class Score(NamedTuple):
    """A metric and, for ties, minus the loss; larger is better. On a handful of images many settings tie."""

    value: float
    minus_loss: float


def measured(logits: Tensor, labels: Tensor, metric: Metric) -> float:
    """Compute the metric, 0 to 1, of logits float [N, C] and labels i64 [N]; logits that are not finite are wrong."""
    right = ((logits.argmax(1) == labels) & logits.isfinite().all(1)).double()
    if metric == "accuracy":
        return float(right.mean())
    images = torch.bincount(labels, minlength=logits.shape[1])
    hits = torch.zeros(logits.shape[1], dtype=right.dtype, device=right.device).index_add_(0, labels, right)
    return float((hits[images > 0] / images[images > 0]).mean())


def score(logits: Tensor, labels: Tensor, metric: Metric) -> Score:
    """Compute the metric and the mean log likelihood, which is minus infinity for a loss that is not finite."""
    loss = float(cross_entropy(logits.float(), labels))
    return Score(measured(logits, labels, metric), -loss if loss < float("inf") else -float("inf"))
