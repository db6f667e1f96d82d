"""The labels that a few-shot task may use: k images of each class, a function of seed and file alone."""

from dataclasses import dataclass, field
from typing import final

import numpy as np

from pipeline import rng
from pipeline.labels.known import Labels

TAG = 1  # of the draws from the stream ORDER of an image
FOLDS = 5  # a fifth of the shots is held out (ELEVATER: 20 % of each class, rounded up)


@final
@dataclass(frozen=True, eq=False)
class Shots:
    """n images of one file, by class and then in the order in which they were drawn.

    ids, labels  i64 [n]
    turns        i64 [n]   an image's place among the drawn ones of its class: those with turn < k are the first k shots
    """

    ids: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    turns: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, k: int) -> "Shots":
        """Its first k of each class: what a draw of k with the same seed gives."""
        return self.rows(self.turns < k)

    def rows(self, kept: np.ndarray) -> "Shots":
        """Some of them: bool [n], or rows i64."""
        return Shots(self.ids[kept], self.labels[kept], self.turns[kept])

    def fold(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows to learn from and rows held out, i64: every fifth image of each class, from its `number`-th on."""
        held = self.turns % FOLDS == number
        return np.flatnonzero(~held), np.flatnonzero(held)

    def fewer(self, k: int, classes: int) -> np.ndarray:
        """Classes that have fewer than k images, i64."""
        return np.flatnonzero(np.bincount(self.labels, minlength=classes) < k)


def draw_shots(labels: Labels, k: int, seed: int) -> Shots:
    """k images of each class, or all of them where a class has fewer.

    Each image has a random number of its own (pipeline.rng), and a class's shots are those with the smallest: no
    network, machine or batch has a say, and with one seed fewer shots are a subset of more.
    """
    ids = np.asarray(labels.ids, np.int64)
    of = labels[ids]
    numbers = rng.derive(rng.keys(seed, 0, ids, rng.ORDER), TAG)
    order = np.lexsort((numbers, of))
    ids, of = ids[order], of[order]
    starts = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])[: len(of)]
    turns = np.arange(len(of)) - np.repeat(starts, np.diff(np.r_[starts, len(of)]))
    return Shots(ids, of, turns).first(k)
