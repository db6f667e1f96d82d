"""The objects of an image as a file of annotations has them, and what every format of such files gives.

annotated = CocoFile(path).of("000000000139", (426, 640))     # or VocFolder, YoloFolder: pipeline.dense.boxes chooses
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

Segmentation = Sequence[np.ndarray] | Mapping
"""The pixels of an object: polygons f64 [2k] of x and y in turn, or COCO's RLE {"size": [h, w], "counts": ...}."""


class Annotated(NamedTuple):
    """One object, as read.

    where         the file, and what of it, for messages
    name          of its class
    box           left, top, right and lower edge in pixels; the image's left upper corner is at 0, 0
    ignored       neither to be learned nor to be judged (COCO's crowds, VOC's difficult objects)
    area          in pixels, as the file has it; None where it has none
    segmentation  None where the file has none, or masks are not asked for
    odd           what is odd about it and no error, kinds that pipeline.dense.boxes says: "rotated", "area"
    """

    where: str
    name: str
    box: tuple[float, float, float, float]
    ignored: bool = False
    area: float | None = None
    segmentation: Segmentation | None = None
    odd: tuple[str, ...] = ()


class Annotations(ABC):
    """Annotations of a set of images, in one format of files."""

    path: Path

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """List the classes that the files themselves name, in the order of their numbers."""

    @property
    def names_from(self) -> Path:
        """Return the file or folder that `names` are read from, for messages."""
        return self.path

    @abstractmethod
    def images(self, found: Mapping[str, Path], *, listed: bool) -> dict[str, Path]:
        """Choose, of the images found, those that are annotated. Raises InputError for an image that is missing.

        found   files by name without ending, composed (pipeline.dense.images)
        listed  the images are those of a list, so that annotations of others are no error
        """

    @abstractmethod
    def sides(self, stem: str) -> tuple[int, int] | None:
        """Return height and width of an image as the files have them; None where they do not say."""

    @abstractmethod
    def of(self, stem: str, sides: tuple[int, int]) -> list[Annotated]:
        """Read the objects of an image of the given height and width. Raises InputError for what is malformed."""

    @abstractmethod
    def content(self, stem: str) -> bytes:
        """Return what is said of an image, for a digest."""

    def notes(self, used: Mapping[str, Path], *, listed: bool) -> list[str]:
        """Say, a line each, what is odd about the files and no error, and what of them is not used (which of a list is
        no news)."""
        return []
