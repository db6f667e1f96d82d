"""Read tables: a CSV of paths and labels."""

import csv
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.sources.listing import Listing
from pipeline.sources.source import Files

HEADER_WORDS = {"path", "file", "filename", "file_name", "image", "img", "name"}


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
