"""Metrics of a data set: accuracy, the mean of the classes' accuracies, 11-point mAP, or the area under the ROC curve.

measured(logits, labels, "per_class")
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.evaluate.few_shot_protocols.ranking import area_under_roc, average_precision_11
from models.evaluate.few_shot_protocols.targets import target_loss
from pipeline.elevater.catalogue import Metric


class Score(NamedTuple):
    """A metric and, for ties, minus the loss; larger is better. On a handful of images many settings tie."""

    value: float
    minus_loss: float


def measured(logits: Tensor, labels: Tensor, metric: Metric) -> float:
    """Compute the metric, 0 to 1, of logits float [N, C] and labels i64 [N]; logits that are not finite are wrong.

    accuracy       the share of images
    per_class      the mean over the classes that occur of each one's share (ELEVATER: "mean-per-class")
    map_11_points  labels float [N, C], 1 or 0: the mean over the classes that occur of `average_precision_11` of the
                   softmax over the classes, as ELEVATER scores a classifier that learned each class by itself
    roc_auc        of two classes: `area_under_roc` of the second

    The last two rank images by their logits, and are 0 where one is not finite.
    """
    if metric in ("map_11_points", "roc_auc"):
        return _ranked(logits, labels, metric) if bool(logits.isfinite().all()) else 0.0
    right = ((logits.argmax(1) == labels) & logits.isfinite().all(1)).double()
    if metric == "accuracy":
        return float(right.mean())
    images = torch.bincount(labels, minlength=logits.shape[1])
    hits = torch.zeros(logits.shape[1], dtype=right.dtype, device=right.device).index_add_(0, labels, right)
    return float((hits[images > 0] / images[images > 0]).mean())


def score(logits: Tensor, labels: Tensor, metric: Metric) -> Score:
    """Compute the metric and the mean log likelihood, which is minus infinity for a loss that is not finite."""
    loss = float(target_loss(logits.float(), labels))
    return Score(measured(logits, labels, metric), -loss if loss < float("inf") else -float("inf"))


def _ranked(logits: Tensor, labels: Tensor, metric: Metric) -> float:
    known = labels.cpu().numpy()
    if metric == "roc_auc":
        return area_under_roc((logits[:, 1].double() - logits[:, 0].double()).cpu().numpy(), known)
    likely = logits.double().softmax(1).cpu().numpy()
    occurring = known.any(0).nonzero()[0]
    return float(sum(average_precision_11(likely[:, each], known[:, each]) for each in occurring) / len(occurring))
