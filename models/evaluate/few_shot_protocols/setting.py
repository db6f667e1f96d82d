"""One data set of a suite with its shots: what both ways to learn, linear probing and fine-tuning, are given."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from models.evaluate.few_shot_protocols.features import FeatureExtractor
from models.evaluate.few_shot_protocols.metric import Metric
from models.evaluate.few_shot_protocols.shots import Shots, draw_several, draw_shots
from models.evaluate.few_shot_protocols.suite import DataSet
from models.evaluate.few_shot_protocols.table import ClassifierResult
from models.evaluate.few_shot_protocols.targets import targets_of
from pipeline.labels.known import Labels
from pipeline.spec import Data
from pipeline.store.beton import Beton
from pipeline.text import count, some

Protocol = Literal["held_out", "elevater"]
"""held_out: settings are selected on held-out shots or val.beton, and test is evaluated once. elevater: test selects
the epoch."""


class Outcome(NamedTuple):
    """A classifier's metric on test, 0 to 1, and the settings that were selected for it."""

    value: float
    selected: dict[str, float]


@final
@dataclass(frozen=True, eq=False)
class FewShotSetting:
    """A data set, the draws of its shots, and how to read and encode its images.

    drawn      the shots of each draw (seed 0, 1, ...), as many of each class as `shots` asks for at most
    shots      the numbers of images of each class
    left_only  whether the search for the L2 penalty is that of ELEVATER's first release
    images_of  yields the images of a file by id, in order, in the recipe's evaluation view: u8 [n, 3, H, W] on the
               device
    """

    set: DataSet
    drawn: Sequence[Shots]
    shots: Sequence[int]
    metric: Metric
    protocol: Protocol
    left_only: bool
    extractor: FeatureExtractor
    data: Data
    images_of: Callable[[Beton, np.ndarray], Iterator[Tensor]]

    @property
    def classes(self) -> int:
        """Return the number of classes of the set, those without any image included."""
        return len(self.set.classes)

    @property
    def device(self) -> torch.device:
        """Return the device of the encoder."""
        return next(self.extractor.parameters()).device

    def results(self, learn: Callable[[Shots, int], Outcome]) -> list[ClassifierResult]:
        """Learn a classifier for each number of shots and each draw, and time each."""
        made = []
        for k in self.shots:
            for seed, shots in enumerate(self.drawn):
                began = time.perf_counter()
                found = learn(shots.first(k), seed)
                made.append(ClassifierResult(self.set.name, k, seed, *found, time.perf_counter() - began))
        return made

    def remarks(self) -> list[str]:
        """Describe the set: its size, and classes that have fewer images than were asked for."""
        tests = count(len(targets_of(self.set.test)[0]), "test image")
        lines = [f"{self.set.name}: {count(self.classes, 'class')}, {tests}."]
        for k in self.shots:
            few = self.drawn[0].fewer(k, self.classes)
            if len(few):
                named = some([self.set.classes[each] for each in few], most=5)
                fewer = f"fewer than {count(k, 'image')} in {count(len(few), 'class')}"
                lines.append(f"{self.set.name}: {fewer}, of which all are used: {named}.")
            if self.drawn[0].labels.ndim == 2:
                drawn = [shots.first(k) for shots in self.drawn]
                sizes = [shots.labels.sum(0) for shots in drawn]
                images = ", ".join(f"{len(shots):,}" for shots in drawn)
                lines.append(
                    f"{self.set.name}: {count(k, 'shot')} of several labels an image are {images} images, "
                    f"{min(each.min() for each in sizes):g} to {max(each.max() for each in sizes):g} of a class."
                )
        return [*lines, *self.set.remarks]


def draw(each: DataSet, shots: Sequence[int], seeds: int) -> list[Shots]:
    """Draw the shots with seeds 0 to `seeds` - 1, as many of each class as the largest of `shots`."""
    ids, targets = targets_of(each.train)
    if targets.ndim == 2:
        return [draw_several(ids, targets, seed) for seed in range(seeds)]
    labels = Labels(each.train.n, ids, targets)
    return [draw_shots(labels, max(shots), seed) for seed in range(seeds)]
