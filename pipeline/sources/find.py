"""Find out what the user means: a folder, a table or a data set object becomes a `Source`.

source = find("photos")                                             # a folder for each class, or images alone
source = find("photos.csv", reading=Reading(label_column="dx"))     # a table of files and classes
source = find("train2018.json")                                     # annotations, as iNaturalist's
source = find(torchvision.datasets.CIFAR10("."))                    # an object with items
"""

import os
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.sources.annotations import from_annotations, is_list
from pipeline.sources.classes import read_class_list
from pipeline.sources.folders import class_folders, flat_folder, folders_in
from pipeline.sources.objects import from_dataset
from pipeline.sources.reading import FOUND_OUT, TABLE_ONLY, Reading
from pipeline.sources.regular import special
from pipeline.sources.relabelled import relabelled, with_class_names
from pipeline.sources.source import Files, Source
from pipeline.sources.tables import from_csv
from pipeline.store.sample_names import escape
from pipeline.text import some

TABLES = {".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".xlsx", ".parquet"}


def find(source: Any, unlabelled: str | Path | None = None, reading: Reading = FOUND_OUT) -> Source:
    """The source that a path (folder, table) or a data set object means; `unlabelled` adds a folder without labels.

    reading  how folders and tables are to be read, and which classes there are

    Raises InputError if the path does not exist, holds no images, or could mean two things.
    """
    reading.check()
    found = _found(source, unlabelled, reading)
    if reading.classes_from is None:
        note = f"one class only, {(found.classes or [''])[0]}: labels teach nothing; were several classes meant?"
        if found.classes is not None and len(found.classes) == 1 and note not in found.notes:
            found.notes = (*found.notes, note)
        return found
    origin = escape(str(reading.classes_from))
    where = escape(str(source)) if isinstance(source, str | Path) else type(source).__name__
    return relabelled(found, read_class_list(reading.classes_from), where, origin)


def _found(source: Any, unlabelled: str | Path | None, reading: Reading) -> Source:
    if not isinstance(source, str | Path):
        if unlabelled is not None:
            raise InputError("--unlabelled: expected together with a folder or CSV, got a data set object")
        reading.refuse_for("a data set object", *TABLE_ONLY, "levels")
        return with_class_names(source if isinstance(source, Source) else from_dataset(source))
    path, shown = Path(source), escape(str(source))
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        came = "nothing" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or str(error)
        raise InputError(f"{shown}: expected a folder of images or a CSV, found {came}") from None
    more = None if unlabelled is None else flat_folder(Path(unlabelled))
    if path.is_dir():
        return _folder(path, shown, more, reading)
    if kind := special(status.st_mode):
        raise InputError(f"{shown}: expected a folder of images or a CSV, found {kind}")
    reading.refuse_for("a table", "levels")
    if path.suffix.lower() == ".json" and not is_list(path):
        reading.refuse_for("annotations in JSON", *(name for name in TABLE_ONLY if name != "image_folder"))
        return from_annotations(path, more, reading)
    return from_csv(path, more, reading)


def _folder(path: Path, shown: str, more: Files | None, reading: Reading) -> Files:
    reading.refuse_for("a folder", *TABLE_ONLY)
    try:
        folders = folders_in(path)
    except OSError as error:
        raise InputError(f"{shown}: the folder cannot be read: {error.strerror}") from None
    if folders:
        return _beside_tables(path, class_folders(path, more, reading.levels))
    if more is not None:
        raise InputError(f"--unlabelled: expected beside labelled images, but {shown} is a flat folder without labels")
    reading.refuse_for("a folder without folders in it", "levels")
    return _beside_tables(path, flat_folder(path))


def _beside_tables(path: Path, found: Files) -> Files:
    """A folder's images; with a note of the tables beside them, where the folders say no classes, or one."""
    tables = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in TABLES)
    if len(found.classes or ()) < 2 and tables:
        first = escape(str(path / tables[0]))
        found.notes = (*found.notes, f"beside the images: {some([*map(escape, tables)])}; if it says their classes, "
                       f"convert {first} in place of the folder")  # fmt: skip
    return found
