"""Take a table file apart: its encoding, and its rows by each delimiter that it may have.

    text, encoding = decode(Path("labels.csv").read_bytes())
    table = parsed(text, ";")
    table.rows, table.lines

Raises InputError, in one line, for what is no text and for rows that are no rows; a file is never read in part.
"""

import codecs
import csv
import io
import re
from dataclasses import dataclass
from itertools import islice
from typing import final

from pipeline.errors import InputError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "blank"}
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # control characters that no table has
CONTROL = re.compile(NO_TEXT.pattern.encode())
START = 4096  # bytes by which it is decided whether a file is text
CELL = 100_000  # characters of one cell at most; longer ones come from a quote that is not closed


@final
@dataclass(frozen=True)
class Table:
    """The rows of a table that are not blank, each with the number of the line on which it ends."""

    rows: list[list[str]]
    lines: list[int]


def decode(blob: bytes) -> tuple[str, str]:
    """Text and its encoding: by the mark at its beginning, else UTF-8, else Windows-1252 or Latin-1.

    Raises InputError if it is no text.
    """
    marked = next((name for mark, name in MARKS.items() if blob.startswith(mark)), None)
    encoding = marked or _unmarked(blob)
    try:
        text = blob.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"expected text in UTF-8, got bytes that are no {encoding} ({error.reason})") from None
    wrong = NO_TEXT.search(text)
    if wrong:
        line = text.count("\n", 0, wrong.start()) + 1
        kind = "a NUL byte" if wrong[0] == "\0" else f"the control character {ord(wrong[0])}"
        raise InputError(f"expected text in UTF-8, got {kind} on line {line}; save a spreadsheet as CSV in UTF-8")
    return text, encoding


def _unmarked(blob: bytes) -> str:
    start = blob[:START]
    if CONTROL.search(start):
        for order, zero in (("le", start[1::2]), ("be", start[::2])):  # ASCII in UTF-16: every second byte is 0
            if len(blob) % 2 == 0 and 2 * zero.count(0) > len(zero):
                return f"utf-16-{order}"
        return "latin-1"  # no text: any encoding finds the control character
    for encoding in ("utf-8", "cp1252"):
        try:
            blob.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def parsed(text: str, delimiter: str, most: int | None = None) -> Table:
    """The rows of a text, or the first `most`; cells without the white space around them, blank rows left out.

    A cell may stand in double quotes. Raises InputError for quotes that are not closed and cells that are too long.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, lines = [], []
    try:
        for row in islice(reader, most):
            cells = [cell.strip() for cell in row]
            longest = max(map(len, cells), default=0)
            if longest > CELL:
                raise InputError(f"line {reader.line_num}: a cell has {longest:,} characters; is a quote not closed?")
            if any(cells):
                rows.append(cells)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"line {reader.line_num}: {error}") from None
    return Table(rows, lines)


def consistent(table: Table) -> int:
    """How many cells every row has, if all have the same number, else 0."""
    widths = {len(row) for row in table.rows}
    return widths.pop() if len(widths) == 1 else 0
