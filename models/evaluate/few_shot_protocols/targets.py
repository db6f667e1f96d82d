"""What a classifier learns: a class for each image, or a row of 1 and 0 where an image may have several labels.

ids, targets = targets_of(beton)
target_loss(logits, torch.from_numpy(targets))
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from models.evaluate.evaluator import labels_of
from models.losses import at_least_f32, label_loss
from pipeline.labels.multi_label import load_multi_labels
from pipeline.store.beton import Beton


def targets_of(beton: Beton) -> tuple[np.ndarray, np.ndarray]:
    """Return the labelled images of a file, i64 [N], and their classes i64 [N], or f32 [N, C] of several labels each.

    Several labels lie beside the file (`pipeline.labels.multi_label`); then every image of it counts as labelled.
    Raises InputError if it has no labels.
    """
    several = load_multi_labels(beton)
    if several is not None:
        return np.arange(beton.n), several
    labels = labels_of(beton)
    ids = np.asarray(labels.ids)
    return ids, labels[ids]


def target_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean cross-entropy of logits float [N, C] and classes i64 [N]; of rows float [N, C] the mean binary
    cross-entropy over images and classes, as ELEVATER learns VOC2007."""
    if targets.ndim == 1:
        return label_loss(logits, targets)
    logits = at_least_f32(logits)
    return binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def as_targets(labels: Tensor, classes: int) -> Tensor:
    """Return f64 [N, C] of classes i64 [N], one-hot, or of rows, as they are."""
    return torch.nn.functional.one_hot(labels, classes).double() if labels.ndim == 1 else labels.double()
