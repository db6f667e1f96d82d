"""Mean corruption error (mCE), normalised by AlexNet's errors, and SupMAE's score over four data sets."""

import re
from collections.abc import Mapping, Sequence

from pipeline.evaluation.corruptions.corrupt import NAMES

# top-1 errors of AlexNet on ImageNet-C, mean over the five severities, published with it (its paper's table 1, rounded)
ALEXNET: Mapping[str, float] = dict(zip(NAMES, (
    0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816, 0.826572, 0.819324, 0.564592,
    0.853204, 0.646056, 0.717840, 0.606500,
), strict=True))  # fmt: skip


def mean_corruption_error(errors: Mapping[str, Sequence[float]]) -> float:
    """Compute mCE as a share: the mean over the 15 corruptions of (sum of errors over severities) / (AlexNet's).

    errors  shares at severities 1 to 5 (Hendrycks and Dietterich 2019, section 4.2)
    """
    return sum(sum(errors[name]) / len(errors[name]) / ALEXNET[name] for name in ALEXNET) / len(ALEXNET)


def combined_score(mce: float, a: float, r: float, sketch: float) -> float:
    """Compute SupMAE's score: the mean of 1 - mCE and the accuracies on ImageNet-A, -R and -Sketch; all are shares."""
    return (1 - mce + a + r + sketch) / 4


def is_imagenet(classes: Sequence[str]) -> bool:
    """Say whether a run has ImageNet's 1000 classes, named by their WordNet ids: AlexNet's errors hold for these."""
    return len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes)
