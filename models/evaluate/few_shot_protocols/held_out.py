"""Protocol `held_out` of linear probing: the L2 penalty is selected on held-out shots or on val.beton."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.evaluate.few_shot_protocols.l2_search import L2, search
from models.evaluate.few_shot_protocols.metric import Metric, Score, score
from models.evaluate.few_shot_protocols.regression import LinearClassifier, fit
from models.evaluate.few_shot_protocols.shots import FOLDS, Shots


class Trial(NamedTuple):
    """Features to learn on, and held-out features to measure on: float [n, D], with labels i64 [n]."""

    features: Tensor
    labels: Tensor
    held: Tensor
    held_labels: Tensor


def trials_of(shots: Shots, features: Tensor) -> list[Trial]:
    """Hold out each fifth of the shots (features float [n, D]) once; one that leaves nothing to learn on is skipped."""
    labels, trials = torch.from_numpy(shots.labels).to(features.device), []
    for number in range(FOLDS):
        learned, held = (torch.from_numpy(rows).to(features.device) for rows in shots.fold(number))
        if len(learned) and len(held):
            trials.append(Trial(features[learned], labels[learned], features[held], labels[held]))
    return trials


def select(trials: Sequence[Trial], classes: int, metric: Metric) -> float:
    """Select the L2 penalty with the best mean metric over the trials, of equals the one with the smallest mean loss.

    Penalties are tried from the strongest down, so that each fit starts from the optimum of a smoother problem.
    """
    last: list[LinearClassifier | None] = [None] * len(trials)

    def mean_score(place: int) -> Score:
        found = []
        for number, trial in enumerate(trials):
            fitted = last[number] = fit(trial.features, trial.labels, classes, _value(place), last[number])
            found.append(score(fitted(trial.held), trial.held_labels, metric))
        return Score(*(sum(each) / len(found) for each in zip(*found, strict=True)))

    return _value(search(mean_score)[0])


def linear(
    shots: Shots, features: Tensor, trials: Sequence[Trial], classes: int, metric: Metric
) -> tuple[LinearClassifier, float]:
    """Fit the classifier on all shots, with the L2 penalty that the trials select; return both."""
    l2 = select(trials, classes, metric)
    return fit(features, torch.from_numpy(shots.labels).to(features.device), classes, l2), l2


def _value(place: int) -> float:
    """Return the L2 penalty at a place of the search, which counts from the strongest."""
    return float(L2[len(L2) - 1 - place])
