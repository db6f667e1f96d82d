"""What a source of images is: images in a fixed order, each with a name, and with a label or none."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import final

import numpy as np
from PIL import Image

from pipeline.errors import InputError
from pipeline.sources.listing import SUFFIXES, Listing

Pixels = bytes | Image.Image | np.ndarray


class Source(ABC):
    """Images in a fixed order.

    classes   names in label order, or None where nothing has a label
    labels    i64 [n] of the images that can have one, -1 where it is unknown; None where only reading tells
    rejected  (name, reason) of files that ought to be images and cannot be taken as such
    ignored   how many other files were found, by suffix
    """

    classes: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    rejected: tuple[tuple[str, str], ...] = ()
    ignored: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, i: int) -> str:
        """A path or number that identifies image i."""

    @abstractmethod
    def read(self, i: int) -> tuple[Pixels, int]:
        """Image i and its label, -1 where it has none; called from several threads."""


@final
class Files(Source):
    """Files under one root: `names` are relative paths, `labels` i64 [N]; images of `more` follow, without labels."""

    def __init__(
        self,
        root: Path,
        names: list[str],
        labels: np.ndarray,
        classes: tuple[str, ...] | None,
        others: Listing,
        more: "Files | None" = None,
    ) -> None:
        if not names:
            raise InputError(f"{root}: expected images ({' '.join(sorted(SUFFIXES))}), found none")
        self.root, self.names, self.labels, self.classes, self.more = root, names, labels, classes, more
        self.rejected = (*others.rejected, *(more.rejected if more else ()))
        self.ignored = others.ignored + (more.ignored if more else Counter())

    def __len__(self) -> int:
        return len(self.names) + (len(self.more) if self.more else 0)

    def name(self, i: int) -> str:
        if self.more and i >= len(self.names):
            return f"unlabelled/{self.more.name(i - len(self.names))}"
        return self.names[i]

    def read(self, i: int) -> tuple[Pixels, int]:
        if self.more and i >= len(self.names):
            return self.more.read(i - len(self.names))[0], -1
        return (self.root / self.names[i]).read_bytes(), int(self.labels[i])
