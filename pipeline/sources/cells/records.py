"""Read a table that is written as JSON: an object for each image, one a line (metadata.jsonl) or in one list.

table, left_out = records('{"file_name": "a.jpg", "label": "cat"}\\n{"file_name": "b.jpg", "label": null}')
table.rows      # [["file_name", "label"], ["a.jpg", "cat"], ["b.jpg", ""]]
"""

import json
from typing import Any

from pipeline.errors import InputError
from pipeline.sources.cells.delimited import Table

SHOWN = 40
JSON_LINES, JSON_LIST = "JSON lines", "JSON list"


def kind_of_records(text: str) -> str | None:
    """Whether a text is an object a line, or a list of them; None for a table of cells."""
    start = text.lstrip()
    kind = JSON_LIST if start.startswith("[") else JSON_LINES
    if not start.startswith(("[", "{")):
        return None
    try:
        first = json.loads(start)[0] if kind == JSON_LIST else json.loads(start.partition("\n")[0])
        several = all(isinstance(value, list | dict) for value in first.values())
    except (ValueError, RecursionError, IndexError, AttributeError):
        return None
    return None if several else kind  # annotations on one line are an object of lists


def records(text: str) -> tuple[Table, list[str]]:
    """The rows, the first with the names of all fields, and a note of the fields that hold more than one value.

    A field that is null or absent is an empty cell. Raises InputError for what is no object, with its line or number.
    """
    found = _lines(text) if kind_of_records(text) == JSON_LINES else _list(text)
    names = list(dict.fromkeys(name for _, each in found for name in each))
    several = [name for name in names if any(isinstance(each.get(name), list | dict) for _, each in found)]
    kept = [name for name in names if name not in several]
    if not kept:
        raise InputError("expected objects with the name of a file and a class, found no field of one value")
    rows = [kept, *([_cell(each.get(name)) for name in kept] for _, each in found)]
    notes = [f"fields that hold lists or objects are not read: {', '.join(several)}"] if several else []
    return Table(rows, [0, *(line for line, _ in found)]), notes


def _lines(text: str) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            found.append((number, _object(line, f"line {number}")))
    return found


def _list(text: str) -> list[tuple[int, dict[str, Any]]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("expected a list in JSON, and it cannot be read as such") from None
    return [(number, _object(row, f"number {number}")) for number, row in enumerate(rows, 1)]


def _object(row: Any, where: str) -> dict[str, Any]:
    if isinstance(row, str):
        try:
            row = json.loads(row)
        except (ValueError, RecursionError):
            raise InputError(f"{where}: expected an object in JSON, and it cannot be read as such") from None
    if not isinstance(row, dict):
        example = '{"file_name": "a.jpg", "label": "cat"}'
        raise InputError(f"{where}: expected an object such as {example}, got {repr(row)[:SHOWN]}")
    return row


def _cell(value: Any) -> str:
    return "" if value is None else str(value).strip()
