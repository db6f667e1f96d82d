"""Read annotations as COCO and iNaturalist write them: JSON with images, categories, and which image is of which.

    source = from_annotations(Path("train2018.json"))       # files below the folder of the JSON

iNaturalist 2017, 2018 and 2019 are such a file beside a folder of folders, whose levels are orders and species; the
class of an image is its category, not its folder.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.sources.cells.delimited import decode
from pipeline.sources.cells.named_files import NamedFiles
from pipeline.sources.cells.records import JSON_LIST, kind_of_records
from pipeline.sources.classes import class_names
from pipeline.sources.listing import Listing
from pipeline.sources.reading import FOUND_OUT, Reading
from pipeline.sources.regular import read_regular
from pipeline.sources.source import Files
from pipeline.store.sample_names import brief, escape
from pipeline.text import count, some

LONGEST = 4096  # bytes of a path on Linux


def from_annotations(path: Path, more: Files | None = None, reading: Reading = FOUND_OUT) -> Files:
    """The images that annotations list, in order, and the category of each as its label.

    The classes are the categories by ascending id, with or without an image, so that those of train2018.json and of
    val2018.json are the same. They have the names of the categories, or, where a name is of several, their ids. An
    image without an annotation has no label, as those of a test set. Files are named relative to the JSON's folder, or
    to `reading.image_folder`; those that are not there are rejected.

    Raises InputError if the file is no such JSON, if an image has annotations of several categories, as those of object
    detection have, or if two images are one file.
    """
    where = escape(str(path))
    found = _parsed(path, where)
    images = _rows(found, "images", where, id=int, file_name=str)
    categories = _rows(found, "categories", where, id=int) if "categories" in found else []
    annotations = _rows(found, "annotations", where, image_id=int, category_id=int) if "annotations" in found else []
    if not images:
        raise InputError(f"{where}: expected images, found none: its list is empty")
    ids = sorted(row["id"] for row in categories)
    if len(set(ids)) < len(ids) or len({row["id"] for row in images}) < len(images):
        raise InputError(f"{where}: expected an id of its own for each image and each category, found one twice")
    classes, named_by = _classes(categories, where) if annotations else (None, "no classes, as nothing is annotated")
    by_image = _categories_of(annotations, {row["id"] for row in images}, set(ids), where)
    root = reading.image_folder or path.parent
    if not root.is_dir():
        raise InputError(f"--image-folder {escape(str(root))}: expected a folder, found none")
    names, kept, others = _files(images, NamedFiles(root), where)
    if not names:
        name, reason = others.rejected[0]
        raise InputError(
            f"{where}: expected files in {escape(str(root))}, found none of the {len(images):,} that are listed: "
            f"{brief(name)} ({reason}), ...; see --image-folder"
        )
    places = {category: label for label, category in enumerate(ids)}
    labels = np.array([places[by_image[i]] if (i := images[at]["id"]) in by_image else -1 for at in kept], np.int64)
    note = f"annotations: {count(len(images), 'image')} of {count(len(ids), 'category', 'categories')}; {named_by}"
    return Files(root, names, labels, classes, others, more, (note,))


def is_list(path: Path) -> bool:
    """Whether a JSON file holds a list of objects, and so a table and no annotations."""
    try:
        text = decode(read_regular(path))[0].lstrip("\ufeff \t\r\n")
        return text.startswith("[") and kind_of_records(text) == JSON_LIST  # annotations are not parsed for this
    except (OSError, InputError):
        return False  # which reading it will say


def _parsed(path: Path, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(read_regular(path))
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{where}: expected JSON, and it cannot be read as such") from None
    wanted = ("images", "categories") if isinstance(found, dict) and "annotations" in found else ("images",)
    lacking = [name for name in wanted if not isinstance(found, dict) or name not in found]
    if lacking:
        raise InputError(
            f"{where}: expected annotations as of iNaturalist or COCO, an object with images, annotations and "
            f"categories, found no {lacking[0]}; or convert a folder, or a table of files and classes"
        )
    return found


def _rows(found: Mapping[str, Any], name: str, where: str, **fields: type) -> Sequence[Mapping[str, Any]]:
    """The list called `name`. Raises InputError unless it is one of objects with these fields of these types."""
    rows = found[name]
    if not isinstance(rows, list):
        raise InputError(f"{where}: expected a list of {name}, got {brief(repr(rows))}")
    for number, row in enumerate(rows):
        for field, kind in fields.items():
            value = row.get(field) if isinstance(row, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                wanted = "a whole number" if kind is int else "a text"
                raise InputError(f"{where}: {name}, number {number + 1}: expected {field}, {wanted}, got {value!r}")
    return rows


def _classes(categories: Sequence[Mapping[str, Any]], where: str) -> tuple[tuple[str, ...], str]:
    """The names of the categories by ascending id, and how they were named."""
    rows = sorted(categories, key=lambda row: row["id"])
    names = [name for row in rows if isinstance(name := row.get("name"), str) and name.strip()]
    if len(set(names)) == len(rows):
        return class_names(names, where), "classes from their names, by id"
    numbers = class_names([str(row["id"]) for row in rows], where)
    return numbers, "classes from their ids, as not each has a name of its own"


def _categories_of(
    annotations: Sequence[Mapping[str, Any]], images: set[int], categories: set[int], where: str
) -> dict[int, int]:
    """The category of each image that has one."""
    found: dict[int, int] = {}
    for number, row in enumerate(annotations, 1):
        image, category = row["image_id"], row["category_id"]
        if image not in images or category not in categories:
            wrong = f"image {image}" if image not in images else f"category {category}"
            raise InputError(f"{where}: annotation {number} is of {wrong}, which is not listed")
        if found.setdefault(image, category) != category:
            raise InputError(
                f"{where}: image {image} has annotations of categories {found[image]} and {category}; expected one for "
                "each image: annotations of objects in images give no class to learn"
            )
    return found


def _files(images: Sequence[Mapping[str, Any]], files: NamedFiles, where: str) -> tuple[list[str], list[int], Listing]:
    """The names of the files that are there, the places of their images, and what was rejected."""
    names, kept, others = [], [], Listing()
    for at, row in enumerate(images):
        name, reason = files.find(row["file_name"])
        if name is None:
            asked = row["file_name"][:LONGEST] or "an image without a file"
            others.rejected.append((asked, f"image {row['id']}: {reason}"))
        else:
            names.append(name)
            kept.append(at)
    twice = [brief(name) for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(f"{where}: files that are listed twice ({len(twice)}): {some(twice)}; leave an image for each")
    return names, kept, others
