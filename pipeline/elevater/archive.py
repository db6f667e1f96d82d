"""Read the archive of one of ELEVATER's data sets: an index of images and labels for each split, and zip files.

archive = open_archive(CATALOGUE["dtd"], Path("elevater/classification/dtd_20211007"), "train")
archive.labels_of_image[0], archive.read(0)

The layout is that of the library that the toolkit downloads with (vision-datasets 0.2.17, `IRIS_DATA_FORMAT.md`,
`COCO_DATA_FORMAT.md` and `common/data_manifest.py`): a line `train.zip@path/to/image.jpg 3` for each image, several
labels separated by commas, counted from 0 in the order of `labels.txt`; or a JSON with images (`file_name`,
`zip_file`), annotations and categories. Zip files are read as they are. Where one was unpacked and is gone, the folder
of its name without `.zip` is read, as the library does for files in the cloud.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np

from pipeline.elevater.catalogue import BenchmarkSet, Split
from pipeline.errors import InputError
from pipeline.sources.classes import class_names
from pipeline.sources.regular import MOST_BYTES, read_regular
from pipeline.sources.source import Source
from pipeline.store.checksummed_json import parsed
from pipeline.store.sample_names import brief, escape

ABSENT = "no such file"


class Row(NamedTuple):
    """An image as the index names it, `train.zip@1.jpg` or a path, and its labels."""

    file: str
    labels: tuple[int, ...]


@final
class Archive(Source):
    """Images of one split in the order of its index; those that are not there are rejected by name.

    `labels_of_image` has all labels of each image. What `read` gives is the label where the set has one an image, and
    -1 where it has several, so that nothing learns from one of them as if it were all.
    """

    labels: np.ndarray

    def __init__(self, folder: Path, rows: Sequence[Row], classes: tuple[str, ...], *, multi_label: bool) -> None:
        self._folder, self._zips = folder, _Zips(folder)
        absent = [(row.file, reason) for row in rows if (reason := self._zips.absent(row.file))]
        gone = {name for name, _ in absent}
        kept = [row for row in rows if row.file not in gone]
        self.classes, self.rejected = classes, tuple((escape(name), reason) for name, reason in absent)
        self._files = [row.file for row in kept]
        self.labels_of_image = [row.labels for row in kept]
        of = [-1 if multi_label else labels[0] for labels in self.labels_of_image]
        self.labels = np.array(of, np.int64)

    def __len__(self) -> int:
        return len(self._files)

    def name(self, i: int) -> str:
        return escape(self._files[i])

    def read(self, i: int) -> tuple[bytes, int]:
        return self._zips.read(self._files[i]), int(self.labels[i])


def open_archive(facts: BenchmarkSet, folder: Path, split: Split) -> Archive:
    """Open one split of a data set.

    Raises InputError for a missing index, a line or an entry that cannot be read, a label that is no class, an image
    that has no label or, unless the set is one of several labels an image, more than one, and one that is listed twice
    with different labels.
    """
    path = folder / facts.index[split]
    where = escape(str(path))
    if facts.class_names is None:
        names, rows = _from_json(path, where)
        classes = class_names(names, where)
    else:
        listed = folder / facts.class_names
        names = [line.strip() for line in _text(listed).splitlines() if line.strip()]
        classes, rows = class_names(names, escape(str(listed))), _from_lines(_text(path), where)
    if not rows:
        raise InputError(f"{where}: expected images, found none")
    labels: dict[str, tuple[int, ...]] = {}
    for row in rows:
        _check(row, len(classes), where, multi_label=facts.multi_label)
        if labels.setdefault(row.file, row.labels) != row.labels:
            raise InputError(f"{facts.name}: {escape(row.file)} is listed twice, with different labels")
    return Archive(folder, rows, classes, multi_label=facts.multi_label)


def _check(row: Row, classes: int, where: str, *, multi_label: bool) -> None:
    if not row.labels or (len(row.labels) > 1 and not multi_label):
        expected = "a label or more" if multi_label else "one label"
        raise InputError(f"{where}: {brief(row.file)}: expected {expected}, found {len(row.labels)}")
    for label in row.labels:
        if not 0 <= label < classes:
            raise InputError(f"{where}: {brief(row.file)}: expected labels from 0 to {classes - 1}, got {label}")


def _text(path: Path) -> str:
    where = escape(str(path))
    try:
        return read_regular(path).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: expected text in UTF-8, and it is none") from None


def _from_lines(text: str, where: str) -> list[Row]:
    """Read lines of a file, a space, and labels with commas between them; only the file may have spaces."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        file, _, labels = line.strip().rpartition(" ")
        try:
            rows.append(Row(file.replace("\\", "/"), tuple(dict.fromkeys(map(int, labels.split(","))))))
        except ValueError:
            file = ""
        if not file:
            raise InputError(f"{where}: line {number}: expected `train.zip@1.jpg 0`, got {brief(line)!r}")
    return rows


def _from_json(path: Path, where: str) -> tuple[list[str], list[Row]]:
    """Read the names of the categories, by id, and the images, by id, with the places of their categories."""
    try:
        found: Any = parsed(_text(path).encode())
        categories = sorted(found["categories"], key=lambda category: category["id"])
        place = {category["id"]: i for i, category in enumerate(categories)}
        labels: dict[int, dict[int, None]] = {image["id"]: {} for image in found["images"]}
        for annotation in found["annotations"]:
            labels[annotation["image_id"]][place[annotation["category_id"]]] = None
        images = sorted(found["images"], key=lambda image: image["id"])
        rows = [Row(_file(image), tuple(labels[image["id"]])) for image in images]
        names = [str(category["name"]) for category in categories]
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{where}: expected JSON with images, annotations and categories that fit together ({brief(why)})"
        ) from None
    if len(place) < len(categories) or len(labels) < len(images):
        raise InputError(f"{where}: expected an id of its own for each image and each category, found one twice")
    return names, rows


def _file(image: dict[str, Any]) -> str:
    inside = f"{image['zip_file']}@" if image.get("zip_file") else ""
    return (inside + image["file_name"]).replace("\\", "/")


@final
class _Zips:
    """The files of a folder, and those in zip files in it, each of which is opened once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: dict[str, tuple[zipfile.ZipFile, frozenset[str]] | None] = {}

    def absent(self, file: str) -> str | None:
        """Say why a file cannot be read, or None if it is there."""
        inside, path = self._place(file)
        if ".." in path.split("/") or path.startswith("/"):
            return "a path that leads out of the folder"
        if inside is not None:
            return None if path in inside[1] else ABSENT
        return None if (self.folder / path).is_file() else ABSENT

    def read(self, file: str) -> bytes:
        """Read a file. Raises InputError or OSError if it is damaged."""
        inside, path = self._place(file)
        if inside is None:
            return read_regular(self.folder / path)
        try:
            if (size := inside[0].getinfo(path).file_size) > MOST_BYTES:
                raise InputError(f"{size / 1e9:,.0f} GB, expected a file of at most {MOST_BYTES / 1e9:.0f} GB")
            return inside[0].read(path)
        except InputError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise InputError(f"damaged in its zip file: {brief(str(error))}") from None

    def _place(self, file: str) -> tuple[tuple[zipfile.ZipFile, frozenset[str]] | None, str]:
        """Return the zip file and the path in it, or None and the path below the folder."""
        name, at, path = file.partition("@")
        if not at:
            return None, file
        if name not in self._opened:
            self._opened[name] = self._open(name)
        opened = self._opened[name]
        return (opened, path) if opened else (None, f"{name.removesuffix('.zip')}/{path}")

    def _open(self, name: str) -> tuple[zipfile.ZipFile, frozenset[str]] | None:
        where = self.folder / name
        if ".." in Path(name).parts or not where.is_file():
            return None
        try:
            opened = zipfile.ZipFile(where)
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{escape(str(where))} cannot be read as a zip file: {brief(str(error))}") from None
        return opened, frozenset(opened.namelist())
