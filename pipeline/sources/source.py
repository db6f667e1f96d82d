"""What a source of images is: images in a fixed order, each with a name, and with a label or none."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import final

import numpy as np
from PIL import Image

from pipeline.errors import InputError
from pipeline.sources.listing import SUFFIXES, Listing
from pipeline.sources.regular import read_regular
from pipeline.store.sample_names import escape
from pipeline.text import count, some

Pixels = bytes | Image.Image | np.ndarray
UNLABELLED = "unlabelled"  # what stands before the names of images that --unlabelled adds


@final
class WrongItem(InputError):
    """An item of a source that is no image with a label; not one file is at fault but the source, so all work ends."""


class Source(ABC):
    """Images in a fixed order.

    concurrent  whether several threads may call `read` at once; else one thread calls it, for one item after another
    classes   names in label order, or None where nothing has a label
    labels    i64 [n] of the images that can have one, -1 where it is unknown; None where only reading tells
    rejected  (name, reason) of files that ought to be images and cannot be taken as such
    ignored   how many other files were found, by suffix
    notes     what the user should know of how the source was read, a full line each

    Names of classes and images are printable (`pipeline.store.sample_names.escape`).
    """

    concurrent: bool = False
    classes: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    rejected: tuple[tuple[str, str], ...] = ()
    ignored: Mapping[str, int] = MappingProxyType({})
    notes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, i: int) -> str:
        """A path or number that identifies image i."""

    @abstractmethod
    def read(self, i: int) -> tuple[Pixels, int]:
        """Image i, which no later call changes, and its label, -1 where it has none.

        Raises OSError or InputError if this image cannot be read, and WrongItem if the source is wrong.
        """


@final
class Files(Source):
    """Files under one root: `names` are relative paths, `labels` i64 [N]; images of `more` follow, without labels.

    Of `more` what is a file of `names`, too, is left out, which `notes` say: an image that has a label has one row.
    """

    concurrent = True
    labels: np.ndarray

    def __init__(
        self,
        root: Path,
        names: list[str],
        labels: np.ndarray,
        classes: tuple[str, ...] | None,
        others: Listing,
        more: "Files | None" = None,
        notes: Sequence[str] = (),
    ) -> None:
        if not names:
            raise InputError(f"{root}: expected images ({' '.join(sorted(SUFFIXES))}), found {others.instead()}")
        files = [_identity(root / name) for name in names]
        twice = _twice(root, names, files, labels, classes)
        more, again = (more, ()) if more is None else more._beside({*files} - {None})
        self.root, self.names, self.labels, self.classes, self.more = root, names, labels, classes, more
        rejected = [(escape(name), reason) for name, reason in others.rejected]
        rejected += [(f"{UNLABELLED}/{name}", reason) for name, reason in (more.rejected if more else ())]
        self.rejected = tuple(rejected)
        self.ignored = others.ignored + Counter(more.ignored if more else ())
        self.notes = (*notes, *others.notes(), *twice, *(more.notes if more else ()), *again)

    def _beside(self, theirs: Collection[tuple[int, int] | None]) -> "tuple[Files, Sequence[str]]":
        """These files without those that others are, too, by whatever path, and a note of how many."""
        ours = [_identity(self.root / name) in theirs for name in self.names]
        if not any(ours):
            return self, ()
        again = [escape(name) for name, is_theirs in zip(self.names, ours, strict=True) if is_theirs]
        shown, n = escape(str(self.root)), len(again)
        if all(ours):
            raise InputError(f"--unlabelled {shown}: all {n:,} images are among the others already; leave it out")
        kept = np.flatnonzero(~np.array(ours))
        files = Files(self.root, [self.names[i] for i in kept], self.labels[kept], self.classes, Listing())
        files.rejected, files.ignored, files.notes = self.rejected, self.ignored, self.notes
        return files, (f"left out of --unlabelled: {count(n, 'image')} among the others already ({some(again)})",)

    def __len__(self) -> int:
        return len(self.names) + (len(self.more) if self.more else 0)

    def name(self, i: int) -> str:
        if self.more and i >= len(self.names):
            return f"{UNLABELLED}/{self.more.name(i - len(self.names))}"
        return escape(self.names[i])

    def read(self, i: int) -> tuple[Pixels, int]:
        if self.more and i >= len(self.names):
            return self.more.read(i - len(self.names))[0], -1
        return read_regular(self.root / self.names[i]), int(self.labels[i])


def _twice(
    root: Path,
    names: Sequence[str],
    files: Sequence[tuple[int, int] | None],
    labels: np.ndarray,
    classes: tuple[str, ...] | None,
) -> Sequence[str]:
    """A note of how many images are one file under several names, by links; InputError if their labels differ."""
    first: dict[tuple[int, int], int] = {}
    again = []
    for i, (name, known) in enumerate(zip(names, files, strict=True)):
        if known is None or (before := first.setdefault(known, i)) == i:
            continue
        again.append(escape(name))
        if labels[i] != labels[before]:
            ours = [repr((classes or ())[label]) if label >= 0 else "no label" for label in labels[[before, i]]]
            both = f"{escape(names[before])} and {escape(name)} are one file, labelled {' and '.join(ours)}"
            raise InputError(f"{escape(str(root))}: {both}; leave one of them")
    return [f"one file under several names, by links: {count(len(again), 'image')} ({some(again)})"] if again else []


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where it cannot be asked, which reading it will say."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
