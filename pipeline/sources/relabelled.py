"""Give a source other class names or another order of classes: those of the training set, for instance.

source = relabelled(source, ("ant", "bee", "cat"), "photos/val", "train.beton")
"""

from collections.abc import Sequence
from typing import final

import numpy as np

from pipeline.sources.classes import SHOWN, class_names, renumbered
from pipeline.sources.source import Pixels, Source
from pipeline.text import some


@final
class Relabelled(Source):
    """A source whose label l is called `classes[numbers[l]]`; `numbers` is i64 [old classes]."""

    def __init__(
        self, source: Source, classes: tuple[str, ...], numbers: np.ndarray, notes: Sequence[str] = ()
    ) -> None:
        self.source, self.classes, self.numbers = source, classes, numbers
        self.concurrent, self.rejected, self.ignored = source.concurrent, source.rejected, source.ignored
        self.notes = (*source.notes, *notes)
        labels = source.labels
        self.labels = None if labels is None else np.append(numbers, -1)[labels]  # -1 stays -1

    def __len__(self) -> int:
        return len(self.source)

    def name(self, i: int) -> str:
        return self.source.name(i)

    def read(self, i: int) -> tuple[Pixels, int]:
        pixels, label = self.source.read(i)
        inside = 0 <= label < len(self.numbers)  # the conversion names a label that no class has
        return pixels, int(self.numbers[label]) if inside else label


def relabelled(source: Source, listed: tuple[str, ...], where: str, origin: str) -> Source:
    """The source with the classes `listed`, in their order. Raises InputError for a class of it that is not listed."""
    ours = source.classes or ()
    counts = None
    if source.labels is not None:
        counts = np.bincount(source.labels[source.labels >= 0], minlength=len(ours)).tolist()
    numbers = renumbered(ours, counts, listed, where, origin)
    held = {place for i, place in enumerate(numbers.tolist()) if counts is None or counts[i]}
    absent = [name for i, name in enumerate(listed) if i not in held]
    notes = [f"classes: the {len(listed):,} of {origin}"]
    if absent:
        notes.append(f"{len(absent):,} of these have no image here: {some(absent, SHOWN)}")
    return Relabelled(source, listed, numbers, notes)


def with_class_names(source: Source) -> Source:
    """The source with its class names in their stored form. Raises InputError if two become one."""
    if source.classes is None:
        return source
    names = class_names(map(str, source.classes), type(source).__name__)
    return source if names == tuple(source.classes) else Relabelled(source, names, np.arange(len(names)))
