"""A semi-supervised problem on features: few labels, many images without one, and folds of the labels to choose by.

method = choose(candidates, problem)     # the settings that tell held-out labels best; nothing reads val or test
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, final

import torch
from torch import Tensor

from models.evaluate.few_shot_protocols.metric import Score, score
from models.evaluate.few_shot_protocols.shots import FOLDS, Shots

MANY = 2500  # labels of which one fifth, held out once, tells the better settings
FLOOR = 1e-6  # of a probability, so that the loss of one that is 0 is finite and ties can be told apart
Settings = TypeVar("Settings")


class Fold(NamedTuple):
    """Rows of the labels, i64: those to learn from and those held out."""

    learned: Tensor
    held: Tensor


class Answer(NamedTuple):
    """Probabilities f32 [N, classes] of queries, the settings that were chosen, and what is to be said of them.

    A row of zeros is an image of which the method says nothing.
    """

    probabilities: list[Tensor]
    chosen: dict[str, float | str]
    remarks: list[str]


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """Images to learn from, of which few have a label, and sets of images to tell the classes of.

    features  f32 [N, D]    of all images to learn from
    shots     their labels: `ids` are rows of the features
    classes   how many
    queries   f32 [M, D] each, such as val's and test's
    """

    features: Tensor
    shots: Shots
    classes: int
    queries: Sequence[Tensor]

    @property
    def rows(self) -> Tensor:
        """Return the rows of the labelled images, i64 [L]."""
        return torch.from_numpy(self.shots.ids)

    @property
    def labels(self) -> Tensor:
        """Return their labels, i64 [L]."""
        return torch.from_numpy(self.shots.labels)

    def folds(self) -> list[Fold]:
        """Hold out each fifth of every class's labels once, or of MANY labels the first; a fold that leaves none on a
        side is left out."""
        numbers = range(FOLDS if len(self.shots) < MANY else 1)
        made = (Fold(*map(torch.from_numpy, self.shots.fold(number))) for number in numbers)
        return [fold for fold in made if len(fold.learned) and len(fold.held)]

    def scored(self, probabilities: Tensor, held: Tensor) -> Score:
        """Score probabilities [H, classes] of held-out labels: accuracy, and for ties the mean log likelihood.

        An image with a row of zeros is wrong.
        """
        silent = probabilities.sum(1, keepdim=True) == 0
        found = probabilities.double().clamp_min(FLOOR).log().masked_fill(silent, torch.nan)  # which counts as wrong
        return score(found, self.labels[held], "accuracy")


def choose(settings: Sequence[Settings], scores: Callable[[Settings], Sequence[Score]]) -> Settings:
    """Return the settings whose mean score over the folds is the best; of equals the first.

    scores  of some settings, one score a fold
    """
    means = [Score(*(sum(each) / len(each) for each in zip(*scores(one), strict=True))) for one in settings]
    return settings[max(range(len(settings)), key=lambda i: means[i])]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels i64 [N] -> f32 [N, classes]."""
    return torch.nn.functional.one_hot(labels, classes).float()
