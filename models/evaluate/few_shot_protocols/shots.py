"""Shots: the k labelled images of each class that may be used, a function of seed and file alone.

Where an image may have several labels, no draw gives exactly k of each class. Then `several_labels.py` has ELEVATER's
rules, which `Shots` follows.
"""

from dataclasses import dataclass, field
from typing import final

import numpy as np

from models.evaluate.few_shot_protocols.several_labels import few_of, held_out
from pipeline import rng
from pipeline.labels.known import Labels

TAG = 1  # of these draws in an image's random stream ORDER
FOLDS = 5  # a fifth of the shots is held out (ELEVATER: 20 % of each class, rounded up)


@final
@dataclass(frozen=True, eq=False)
class Shots:
    """n images of one file, by class and then in the order in which they were drawn.

    ids, labels  i64 [n]
    turns        i64 [n]   an image's place among the drawn ones of its class; turns < k are the first k shots

    Of several labels an image, `labels` are f32 [n, C], 1 or 0, the images are all of the file, and `turns` are their
    places in the order of the draw.
    """

    ids: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    turns: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, k: int) -> "Shots":
        """Return the first k of each class, which are what a draw of k with the same seed gives."""
        if self.labels.ndim == 2:
            return self.rows(few_of(self.labels, k))
        return self.rows(self.turns < k)

    def rows(self, kept: np.ndarray) -> "Shots":
        """Return some of the shots, by a mask bool [n] or by rows i64."""
        return Shots(self.ids[kept], self.labels[kept], self.turns[kept])

    def fold(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows to learn from and rows held out, i64: every fifth image of each class, from the `number`-th."""
        if self.labels.ndim == 2:
            rows = held_out(self.labels, FOLDS, number)
            return np.setdiff1d(np.arange(len(self)), rows), rows
        held = self.turns % FOLDS == number
        return np.flatnonzero(~held), np.flatnonzero(held)

    def fewer(self, k: int, classes: int) -> np.ndarray:
        """Return the classes that have fewer than k images, i64."""
        images = self.labels.sum(0) if self.labels.ndim == 2 else np.bincount(self.labels, minlength=classes)
        return np.flatnonzero(images < k)


def draw_shots(labels: Labels, k: int, seed: int) -> Shots:
    """Draw k images of each class, or all of them where a class has fewer.

    Each image has a random number of its own (pipeline.rng), and a class's shots are the k images with the smallest, so
    that they depend on seed and file alone, and fewer shots are a subset of more with the same seed.
    """
    ids = np.asarray(labels.ids, np.int64)
    of = labels[ids]
    numbers = rng.derive(rng.keys(seed, 0, ids, rng.ORDER), TAG)
    order = np.lexsort((numbers, of))
    ids, of = ids[order], of[order]
    starts = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])[: len(of)]
    turns = np.arange(len(of)) - np.repeat(starts, np.diff(np.r_[starts, len(of)]))
    return Shots(ids, of, turns).first(k)


def draw_several(ids: np.ndarray, labels: np.ndarray, seed: int) -> Shots:
    """Put images with several labels each into the order of a draw; `first(k)` of it are the shots.

    ids     i64 [N]
    labels  f32 [N, C], 1 or 0
    """
    order = np.argsort(rng.derive(rng.keys(seed, 0, ids, rng.ORDER), TAG), kind="stable")
    return Shots(ids[order], labels[order], np.arange(len(ids)))
