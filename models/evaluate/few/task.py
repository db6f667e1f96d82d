"""One data set of the suite, drawn from: what both ways to learn from it are given."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from models.evaluate.few.metric import Metric
from models.evaluate.few.represent import Represent
from models.evaluate.few.shots import Shots, draw_shots
from models.evaluate.few.suite import Set, labels_of
from models.evaluate.few.table import Cell
from pipeline.spec import Data
from pipeline.store.beton import Beton

Protocol = Literal["honest", "elevater"]
"""Selected on validation with test looked at once, or as ELEVATER does, where test selects the epoch."""


class Found(NamedTuple):
    """A classifier's metric on test, 0 to 1, and what was selected for it."""

    value: float
    chosen: dict[str, float]


@final
@dataclass(frozen=True, eq=False)
class Task:
    """A set, its draws, and how to look at it.

    drawn  the shots of each draw (seed 0, 1, ...), as many of each class as `shots` asks for at most
    see    images of a file by id, in order, as the recipe evaluates: u8 [n, 3, S, S] on the device
    """

    set: Set
    drawn: Sequence[Shots]
    shots: Sequence[int]
    metric: Metric
    protocol: Protocol
    left_only: bool
    represent: Represent
    data: Data
    see: Callable[[Beton, np.ndarray], Iterator[Tensor]]

    @property
    def classes(self) -> int:
        """Of the set, those without any image included."""
        return len(self.set.classes)

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return next(self.represent.parameters()).device

    def cells(self, learn: Callable[[Shots, int], Found]) -> list[Cell]:
        """A classifier for each number of shots and each draw."""
        made = []
        for k in self.shots:
            for seed, shots in enumerate(self.drawn):
                began = time.perf_counter()
                found = learn(shots.first(k), seed)
                made.append(Cell(self.set.name, k, seed, *found, time.perf_counter() - began))
        return made

    def remarks(self) -> list[str]:
        """What a reader should know of the set: its size, and classes that have fewer images than were asked for."""
        said = [f"{self.set.name}: {self.classes} classes, {len(labels_of(self.set.test).ids):,} test images."]
        for k in self.shots:
            few = self.drawn[0].fewer(k, self.classes)
            if len(few):
                named = ", ".join(self.set.classes[each] for each in few[:5]) + (", ..." if len(few) > 5 else "")
                said.append(
                    f"{self.set.name}: {len(few)} classes have fewer than {k} images, all of theirs are used: {named}."
                )
        return said


def draw(each: Set, shots: Sequence[int], seeds: int) -> list[Shots]:
    """The shots of each draw, as many of each class as the largest of `shots`."""
    labels = labels_of(each.train)
    return [draw_shots(labels, max(shots), seed) for seed in range(seeds)]
