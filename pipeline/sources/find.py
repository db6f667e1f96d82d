"""Where images come from: folders, a CSV, or a data set object. `find` turns what the user names into a `Source`."""

import csv
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import numpy as np
from PIL import Image

from pipeline.errors import InputError
from pipeline.sources.listing import SUFFIXES, Listing, listing, visible

Pixels = bytes | Image.Image | np.ndarray
SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}
HEADER_WORDS = {"path", "file", "filename", "file_name", "image", "img", "name"}


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


@final
class Dataset(Source):
    """A Python data set: `item(i)` gives (image, label or None)."""

    def __init__(self, n: int, item: Any, classes: tuple[str, ...] | None) -> None:
        self.n, self.item, self.classes = n, item, classes

    def __len__(self) -> int:
        return self.n

    def name(self, i: int) -> str:
        return str(i)

    def read(self, i: int) -> tuple[Pixels, int]:
        image, label = self.item(i)
        if not isinstance(image, bytes | Image.Image | np.ndarray):
            came = type(image).__name__
            raise InputError(
                f"expected a Pillow image, an array or bytes, got {came}; leave out the data set's transform"
            )
        return image, -1 if label is None or self.classes is None else int(label)


def find(source: Any, unlabelled: str | Path | None = None) -> Source:
    """The source that a path (folder, .csv) or a data set object means; `unlabelled` adds a folder without labels.

    Raises InputError if the path does not exist, holds no images, or could mean two things.
    """
    if not isinstance(source, str | Path):
        if unlabelled is not None:
            raise InputError("--unlabelled: expected together with a folder or CSV, got a data set object")
        return source if isinstance(source, Source) else from_dataset(source)
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: expected a folder of images or a CSV, found nothing")
    more = None if unlabelled is None else flat_folder(Path(unlabelled))
    if path.is_file():
        return from_csv(path, more)
    folders = [entry.name for entry in visible(path) if entry.is_dir()]
    if not folders and more is not None:
        raise InputError(f"--unlabelled: expected beside labelled images, but {path} is a flat folder without labels")
    return class_folders(path, more) if folders else flat_folder(path)


def class_folders(root: Path, more: Files | None = None) -> Files:
    """One sub-folder a class, in alphabetical order as in torchvision's ImageFolder; deeper folders belong to it."""
    entries = list(visible(root))
    classes = tuple(entry.name for entry in entries if entry.is_dir())
    if {name.lower() for name in classes} <= SPLIT_FOLDERS:
        raise InputError(f"{root} holds {', '.join(classes)}, not classes; convert {root / classes[0]} and so on")
    found, labels = Listing(), []
    for entry in entries:
        if not entry.is_dir():
            found.add(root, entry.name)
    if found.images:
        first = found.images[0]
        raise InputError(f"{root} has images ({first}, ...) beside class folders; move them, or use --unlabelled")
    for label, folder in enumerate(classes):
        inside = listing(root, folder)
        if not inside.images:
            raise InputError(f"{root / folder}: expected the images of class {folder}, found none; remove the folder")
        found.extend(inside)
        labels += [label] * len(inside.images)
    return Files(root, found.images, np.array(labels, np.int64), classes, found, more)


def flat_folder(root: Path) -> Files:
    """All images below a folder, without labels."""
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of images, found none")
    found = listing(root)
    return Files(root, found.images, np.full(len(found.images), -1, np.int64), None, found)


def from_csv(path: Path, more: Files | None = None) -> Files:
    """Rows `path[,label,...]`, paths relative to the CSV; an empty or missing label, or -1, means unlabelled.

    Labels are class numbers if all of them are whole numbers, else class names. A first row whose first cell is one of
    path, file, filename, image, name is a header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row[:2]] for row in csv.reader(file) if row and row[0].strip()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a folder or a CSV in UTF-8 ({error})") from None
    if rows and rows[0][0].lower() in HEADER_WORDS:
        rows = rows[1:]
    names = [row[0] for row in rows]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{path}: {name} is listed twice")
        seen.add(name)
    labels, classes = _csv_labels(path, [row[1] if len(row) > 1 else "" for row in rows])
    return Files(path.parent, names, labels, classes, Listing(), more)


def _csv_labels(path: Path, cells: list[str]) -> tuple[np.ndarray, tuple[str, ...] | None]:
    known = {cell for cell in cells if cell not in ("", "-1")}
    if all(cell.removeprefix("-").isdecimal() for cell in known):
        number = {cell: int(cell) for cell in known}
        lowest, highest = min(number.values(), default=0), max(number.values(), default=-1)
        if lowest < 0 or highest > 10 * len(cells) + 1000:
            came = lowest if lowest < 0 else highest
            raise InputError(f"{path}: expected class numbers from 0, got {came} for {len(cells)} rows")
        classes = tuple(str(i) for i in range(highest + 1))
    else:
        classes = tuple(sorted(known))
        number = {name: i for i, name in enumerate(classes)}
    return np.array([number.get(cell, -1) for cell in cells], np.int64), classes or None


def from_dataset(dataset: Any) -> Source:
    """A torchvision-style data set (image, label) with `.classes`, or a Hugging Face data set (known by `.features`).

    Files behind `.samples` or an undecoded Hugging Face image are taken as bytes, so that their JPEGs can be kept.
    Raises InputError if the image column or the class names cannot be told.
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InputError(f"expected a data set with a length and items, got {type(dataset).__name__}")
    if hasattr(dataset, "features"):
        return _hugging_face(dataset)
    classes = getattr(dataset, "classes", None) or getattr(getattr(dataset, "dataset", None), "classes", None)
    if classes is None:
        raise InputError(f"{type(dataset).__name__} has no .classes; set it to the class names in label order")
    item = dataset.__getitem__
    if hasattr(dataset, "samples"):
        item = lambda i: (Path(dataset.samples[i][0]).read_bytes(), dataset.samples[i][1])  # noqa: E731
    return Dataset(len(dataset), item, tuple(map(str, classes)))


def _hugging_face(dataset: Any) -> Dataset:
    kinds = {column: type(feature).__name__ for column, feature in dataset.features.items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    labels = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    if len(images) != 1 or len(labels) > 1:
        raise InputError(f"expected one Image and at most one ClassLabel column, got {kinds}; use remove_columns")
    undecoded = dataset.with_format(None).cast_column(images[0], type(dataset.features[images[0]])(decode=False))

    def item(i: int) -> tuple[bytes, int | None]:
        row = undecoded[i]
        stored = row[images[0]]
        return stored["bytes"] or Path(stored["path"]).read_bytes(), row[labels[0]] if labels else None

    return Dataset(len(dataset), item, tuple(dataset.features[labels[0]].names) if labels else None)
