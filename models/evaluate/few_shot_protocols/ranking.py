"""Metrics of a ranking: 11-point average precision, and the area under the ROC curve.

average_precision_11(np.array([0.9, 0.8, 0.1]), np.array([1, 0, 1]))
area_under_roc(np.array([0.9, 0.8, 0.1]), np.array([1, 0, 1]))
"""

import numpy as np

from pipeline.errors import InputError


def average_precision_11(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Compute the mean, over recalls of 0, 0.1, ... 1, of the highest precision at that recall or above.

    scores    float [N]   higher first; equal scores are one step of the curve
    relevant  [N]         1 for positives, of which there must be one, else 0

    As in ELEVATER's library (vision-evaluation 0.2.9), whose curve is scikit-learn's and ends in precision 1 at recall
    0: the first of the eleven values is 1 whatever the ranking. VOC's own 11 points have no such value.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    found = np.cumsum(relevant[order], dtype=np.float64)[ends]
    precision, recall = np.r_[found / (ends + 1), 1.0], np.r_[found / found[-1], 0.0]
    return float(np.mean([precision[recall >= at].max() for at in np.linspace(1, 0, 11)]))


def area_under_roc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Compute the share of pairs of a positive and a negative in which the positive has the higher score, ties half.

    scores    float [N]
    positive  [N]         1 or 0; raises InputError unless both occur
    """
    high, low = scores[positive == 1], np.sort(scores[positive == 0])
    if not len(high) or not len(low):
        raise InputError("the area under the ROC curve needs images of both classes, found one class; add images")
    below, up_to = (np.searchsorted(low, high, side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(low))
