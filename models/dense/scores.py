"""Scores of segmentation from a confusion matrix over all pixels: mIoU, mean and overall accuracy.

confusion = count_pixels(predicted, classes, 11)
mean_scores(confusion)     # {"miou": 0.61, "macc": 0.7, "aacc": 0.88}
"""

import torch
from torch import Tensor

from pipeline.batch import IGNORED

NAMES = "miou", "macc", "aacc"


def count_pixels(predicted: Tensor, classes: Tensor, n: int) -> Tensor:
    """Count the pixels of each class (row) for which each class (column) was predicted: i64 [n, n], on their device.

    predicted  u8 or i64, any shape   0..n-1
    classes    the same shape         IGNORED pixels are not counted
    """
    counted = classes != IGNORED
    pairs = classes[counted].long() * n + predicted[counted].long()
    return torch.bincount(pairs, minlength=n * n).view(n, n)


def ious(confusion: Tensor) -> Tensor:
    """Intersection over union of each class, f64 [n]; not a number of a class that is neither there nor predicted."""
    counts = confusion.double()
    both = counts.diagonal()
    return both / (counts.sum(0) + counts.sum(1) - both)


def recalls(confusion: Tensor) -> Tensor:
    """Share of each class's pixels that are predicted right, f64 [n]; not a number of a class without pixels."""
    counts = confusion.double()
    return counts.diagonal() / counts.sum(1)


def mean_scores(confusion: Tensor) -> dict[str, float]:
    """The mean IoU and the mean recall (mAcc) of the classes that have one, and the share of right pixels (aAcc), as
    mmsegmentation computes them over all images together."""
    counts = confusion.double()
    means = ious(confusion).nanmean(), recalls(confusion).nanmean(), counts.diagonal().sum() / counts.sum()
    return dict(zip(NAMES, map(float, means), strict=True))


def listed(shares: Tensor) -> list[float | None]:
    """Shares of classes as JSON holds them: None where there is no number."""
    return [None if share != share else share for share in shares.tolist()]
