"""Append to and read files of one JSON object a line, which several processes write. The standard library only.

rows = read_lines(folder / "events.jsonl", check)     # the rows that `check` accepts
note = left_out(folder / "events.jsonl", check)       # one line about the others, or None
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipeline.errors import InputError

Check = Callable[[dict], str | None]
"""What is wrong with a row, in a few words; None if nothing is."""
NUMBER, NUMBER_OR_NONE, TEXT, TEXT_OR_NONE = (int, float), (int, float, type(None)), (str,), (str, type(None))
NAMED = 3
"""Number of bad lines that `left_out` names; it counts the others."""


def read_lines(path: Path, check: Check | None = None) -> list[dict]:
    """The rows of a file in the order of writing, [] if there is no file; bad lines are left out.

    A line is bad if it is cut short by a kill, is no UTF-8, no JSON or no object, or if `check` finds something wrong
    with it. Raises InputError if the file cannot be read.
    """
    return [row for _, row, wrong in _lines(path, check) if wrong is None]


def parse_lines(data: bytes, check: Check | None = None) -> list[dict]:
    """The rows in a part of a file, which begins and ends with a whole line; bad lines are left out."""
    return [row for _, row, wrong in _numbered(data, check) if wrong is None]


def left_out(path: Path, check: Check | None = None) -> str | None:
    """One line that counts and names the bad lines which `read_lines` leaves out; None if there are none.

    Raises InputError if the file cannot be read.
    """
    lines = list(_lines(path, check))
    bad = [f"line {number} ({wrong})" for number, _, wrong in lines if wrong is not None]
    if not bad:
        return None
    named = ", ".join(bad[:NAMED]) + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
    return f"{path}: {len(bad)} of {len(lines)} lines are damaged and left out: {named}"


def append_line(path: Path, row: dict) -> None:
    """Append a row in one write call, so that lines of several writers do not mix.

    append_line(folder / "events.jsonl", {"event": "started"})

    After a line that a kill has cut short the row begins a new line.
    """
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(file).st_size
        torn = size and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, ("\n" * bool(torn) + json.dumps(row) + "\n").encode())
    finally:
        os.close(file)


def wrong_field(row: object, needed: Mapping[str, tuple], optional: Mapping[str, tuple] | None = None) -> str | None:
    """The first field of a row that is missing or of another type, in a few words; None if there is none.

    wrong_field({"step": "3"}, {"step": (int,)})  # "step is str, expected int"

    needed, optional  types by field; a bool is no number, nor is one that is not finite
    """
    if not isinstance(row, dict):
        return f"{type(row).__name__}, expected an object"
    for name in needed:
        if name not in row:
            return f"no {name}"
    for name, types in {**(optional or {}), **needed}.items():
        if name in row and not is_of(row[name], types):
            expected = " or ".join("null" if each is type(None) else each.__name__ for each in types)
            return f"{name} is {type(row[name]).__name__}, expected {expected}"
    return None


def is_of(value: object, types: tuple) -> bool:
    """Whether a value of a JSON file has one of the types; a bool is no number, nor is one that is not finite."""
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) and not (isinstance(value, float) and not math.isfinite(value))


def _lines(path: Path, check: Check | None) -> Iterator[tuple[int, dict, str | None]]:
    """Number (from 1) and row of each line that is not empty, and what is wrong with it."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; move it away, or restore it") from error
    yield from _numbered(data, check)


def _numbered(data: bytes, check: Check | None) -> Iterator[tuple[int, dict, str | None]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            row, wrong = _parse(line)
            yield number, row, wrong or (check(row) if check else None)


def _parse(line: bytes) -> tuple[dict, str | None]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        return {}, "not UTF-8"
    except (ValueError, RecursionError):
        return {}, "not JSON"
    return (row, None) if isinstance(row, dict) else ({}, "not a JSON object")
