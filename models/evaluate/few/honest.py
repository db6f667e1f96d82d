"""Linear probing whose one setting, the L2 penalty, is selected without a look at test."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.evaluate.few.metric import Metric, Score, score
from models.evaluate.few.regression import Fitted, fit
from models.evaluate.few.search import L2, search
from models.evaluate.few.shots import FOLDS, Shots


class Trial(NamedTuple):
    """Features to learn on and features to judge by: float [n, D], with labels i64 [n]."""

    features: Tensor
    labels: Tensor
    held: Tensor
    held_labels: Tensor


def trials_of(shots: Shots, features: Tensor) -> list[Trial]:
    """Each fifth of the shots (features float [n, D]) held out once; a fifth that would leave nothing is no trial."""
    labels, trials = torch.from_numpy(shots.labels).to(features.device), []
    for number in range(FOLDS):
        learned, held = (torch.from_numpy(rows).to(features.device) for rows in shots.fold(number))
        if len(learned) and len(held):
            trials.append(Trial(features[learned], labels[learned], features[held], labels[held]))
    return trials


def select(trials: Sequence[Trial], classes: int, metric: Metric) -> float:
    """The L2 penalty with the best mean metric over the trials, of equals the one with the smallest mean loss.

    From the strongest down, so that each fit begins at one of a smoother problem.
    """
    last: list[Fitted | None] = [None] * len(trials)

    def judge(place: int) -> Score:
        found = []
        for number, trial in enumerate(trials):
            last[number] = fit(trial.features, trial.labels, classes, _value(place), last[number])
            found.append(score(last[number](trial.held), trial.held_labels, metric))
        return Score(*(sum(each) / len(found) for each in zip(*found, strict=True)))

    return _value(search(judge)[0])


def linear(
    shots: Shots, features: Tensor, trials: Sequence[Trial], classes: int, metric: Metric
) -> tuple[Fitted, float]:
    """The classifier of all shots, and the L2 penalty that the trials selected."""
    l2 = select(trials, classes, metric)
    return fit(features, torch.from_numpy(shots.labels).to(features.device), classes, l2), l2


def _value(place: int) -> float:
    return float(L2[len(L2) - 1 - place])
