"""Read tables: a row for each image, which names its file and, maybe, its class.

    source = from_csv(Path("photos.csv"), reading=Reading(label_column="species"))

Encoding, delimiter, header and columns are found out (`pipeline.sources.cells`); `Source.notes` says what was found.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import InputError
from pipeline.sources.cells.columns import Columns, choose, found_files, is_one, share_found
from pipeline.sources.cells.delimited import DELIMITERS, Table, consistent, decode, parsed
from pipeline.sources.cells.label_cells import Labels, labels_of
from pipeline.sources.cells.named_files import NamedFiles
from pipeline.sources.cells.parts import rows_of_part
from pipeline.sources.cells.records import kind_of_records, records
from pipeline.sources.classes import class_names
from pipeline.sources.folders import part_of
from pipeline.sources.listing import SUFFIXES, Listing, begins_like_an_image, is_folder
from pipeline.sources.reading import FOUND_OUT, Reading
from pipeline.sources.regular import read_regular
from pipeline.sources.source import Files
from pipeline.store.sample_names import brief, escape
from pipeline.text import count, some

SAMPLE_ROWS = 200  # rows by which the delimiter is found
SEPARATOR = re.compile(r"\Asep=[,;\t|](\r?\n|\r)")  # a line for Excel, which is no row
PICKLE = "a pickle, which may run code; open CIFAR with torchvision's data set, and convert the object"
IDX = "a file of MNIST's; open it with torchvision's data set, and convert the object"
NO_TABLES = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet; unpack it, or save the spreadsheet as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "a spreadsheet; save it as CSV in UTF-8",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"BZh": "a bzip2 archive; unpack it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"ARROW1": "an Arrow file; open it with Hugging Face's datasets, and convert the object",
    b"SQLite format 3": "an SQLite database; write its rows as CSV",
    b"\x80\x02}": PICKLE,
    b"\x80\x03}": PICKLE,
    b"\x80\x04\x95": PICKLE,
    b"\x80\x05\x95": PICKLE,
    b"\0\0\x08\x01": IDX,
    b"\0\0\x08\x03": IDX,
    b"PAR1": "a Parquet file; open it with Hugging Face's datasets, and convert the object",
    b"\x89HDF": "an HDF5 file; write its images into files, or convert a data set object in Python",
    b"\x93NUMPY": "a NumPy array; write its images into files, or convert a data set object in Python",
}
"""What files begin with that are taken for tables by mistake."""
TAR = slice(257, 262), b"ustar"
LONGEST = 4096  # bytes of a path on Linux
MOST_FOLDERS = 100  # beside a table, in which its files are looked for where they are not beside it


def from_csv(path: Path, more: Files | None = None, reading: Reading = FOUND_OUT) -> Files:
    """The images that the rows of a table name, in order, and their labels.

    Files are named relative to the table's folder, or to `reading.image_folder`; rows whose file is not there are
    rejected, with the line. In a table of two columns the second cell may be lacking: such an image has no label.

    Raises InputError if the table cannot be read, if its columns cannot be known, or if two rows name one file.
    """
    where = escape(str(path))
    text, encoding = _text(path, where)
    root = reading.image_folder or path.parent
    if not root.is_dir():
        raise InputError(f"--image-folder {escape(str(root))}: expected a folder, found none")
    files = NamedFiles(root, reading.suffix)
    looked = [files] if reading.image_folder else _looked(files)
    table, delimiter, fields = _delimited(text, looked, where)
    rows = _squared(table, where)
    files = _beside(rows, looked, reading, path, where)
    columns = choose(rows, files, reading, where)
    body, lines = (rows[1:], table.lines[1:]) if columns.header else (rows, table.lines)
    if not body:
        raise InputError(f"{where}: expected rows with images, found none below the header")
    _check_short(table, columns, files, where)
    kept, part = rows_of_part(body, columns, reading, where)
    body, lines = [body[i] for i in kept], [lines[i] for i in kept]
    found = _named(body, lines, columns.path, files, where)
    labels = _labels(body, lines, columns, reading, where)
    lost = set(labels.numbers.tolist()) - {-1, *labels.numbers[found.kept].tolist()}
    if not found.names:
        name, reason = found.others.rejected[0]
        raise InputError(
            f"{where}: expected files in {escape(str(root))}, found none of the {len(body):,} of "
            f"{columns.named(columns.path)}: {brief(name)} ({reason}), ...; see --image-folder and --suffix"
        )
    notes = (
        _note(len(body), encoding, delimiter, columns, found, files),
        *fields,
        *part,
        *labels.notes,
        *_lost_note(lost, labels),
    )
    return Files(root, found.names, labels.numbers[found.kept], labels.classes, found.others, more, notes)


def _text(path: Path, where: str) -> tuple[str, str]:
    """The text of a table and its encoding."""
    if begins_like_an_image(path):
        raise InputError(f"{where} is an image; expected a folder of images or a table of them (text in UTF-8)")
    try:
        blob = read_regular(path)
        _check_no_archive(path, blob)
        text, encoding = decode(blob)
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    text = SEPARATOR.sub(r"\1", text)
    if not text.strip():
        raise InputError(f"{where}: expected a table with a row for each image, found none: it is empty")
    return text, encoding


def _check_no_archive(path: Path, blob: bytes) -> None:
    """Raise InputError if a file is no table but an archive, or holds images in another way."""
    kind = next((kind for start, kind in NO_TABLES.items() if blob.startswith(start)), None)
    if blob[TAR[0]] == TAR[1]:
        kind = "a TAR archive; unpack it"
    if path.suffix == ".beton":
        kind = "a .beton already; convert what it was made from"
    if kind is not None:
        raise InputError(f"expected a folder of images or a table of them, got {kind}")


def _delimited(text: str, looked: Sequence[NamedFiles], where: str) -> tuple[Table, str, Sequence[str]]:
    """The table by the delimiter under which most cells are files, else under which all rows have the same cells; or of
    objects in JSON. With what separates its cells, and a note of fields that are none.

    looked  places of the files; those after the first count where cells name no file in it
    """
    if kind := kind_of_records(text):
        try:
            table, notes = records(text)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return table, kind, notes
    samples, refused = {}, None
    for delimiter in DELIMITERS:
        try:
            sample = parsed(text, delimiter, SAMPLE_ROWS)
        except InputError as error:
            refused = refused or error
            continue
        width = max(map(len, sample.rows), default=0)
        if not width:
            refused = refused or InputError("expected a table with a row for each image, found none: it is empty")
            continue
        rows = [row + [""] * (width - len(row)) for row in sample.rows]
        samples[delimiter] = rows, consistent(sample) if delimiter != " " else 0
    if not samples:
        raise InputError(f"{where}: {refused}")
    for places in (looked[:1], looked[1:]):
        hits = {by: max((max(found_files(rows, files))[0] for files in places), default=0)
                for by, (rows, _) in samples.items()}  # fmt: skip
        if any(hits.values()):
            break
    best = max(samples, key=lambda by: (hits[by], samples[by][1]))
    try:
        return parsed(text, best), DELIMITERS[best], ()
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _squared(table: Table, where: str) -> list[list[str]]:
    """The rows, each with as many cells; of two columns the second may be lacking.

    Raises InputError if rows differ otherwise: a cell that holds the delimiter would be cut in two in silence.
    """
    rows = table.rows
    last = max(max((i for i, cell in enumerate(row) if cell), default=0) for row in rows)
    rows = [row[: last + 1] for row in rows]  # columns at the end that are empty throughout
    width = max(map(len, rows))
    usual = Counter(map(len, rows)).most_common(1)[0][0]
    wrong = next((i for i, row in enumerate(rows) if len(row) != usual), None)
    if wrong is not None and width > 2:
        came, hint = len(rows[wrong]), "a cell that holds the delimiter stands in double quotes"
        if rows[wrong][0].startswith("#"):
            hint = "remove lines that are comments"
        raise InputError(f"{where}: line {table.lines[wrong]} has {came} cells, others have {usual}; {hint}")
    return [row + [""] * (width - len(row)) for row in rows]


def _lost_note(lost: set[int], labels: Labels) -> list[str]:
    """A line about classes that only rows without a file have: the header of a table below a title, for instance."""
    names = [brief((labels.classes or ())[number]) for number in sorted(lost)]
    return [f"classes of rows whose file is not there: {some(names, 10)} ({len(names):,} in all)"] if names else []


def _check_short(table: Table, columns: Columns, files: NamedFiles, where: str) -> None:
    """Raise InputError for a row of fewer cells that names no file: it may be a comment or a title, and no row."""
    width = max(map(len, table.rows))
    for row, line in zip(table.rows, table.lines, strict=True):
        if len(row) == width or width > 2:
            continue
        named = len(row) > columns.path and (
            os.path.splitext(row[columns.path])[1].lower() in SUFFIXES or files.find(row[columns.path]).name is not None
        )
        if not named:
            raise InputError(f"{where}: line {line} has 1 cell, others have 2, and it names no file: '{brief(row[0])}'")


def _looked(files: NamedFiles) -> list[NamedFiles]:
    """Where the files of a table may lie: in its own folder, and in each of the folders beside it."""
    try:
        with os.scandir(files.root) as entries:
            folders = sorted(entry.name for entry in entries if is_folder(entry) and entry.name[0] != ".")
    except OSError:
        return [files]
    return [files, *(NamedFiles(files.root, files.suffix, [folder]) for folder in folders[:MOST_FOLDERS])]


def _beside(
    rows: Sequence[list[str]], looked: Sequence[NamedFiles], reading: Reading, path: Path, where: str
) -> NamedFiles:
    """The files beside the table, or, where most are not there, those in the folders beside it that have some; for
    train.csv not those in test/, where a number may be another image."""
    files = looked[0]
    if len(looked) == 1 or share_found(rows, files, reading, where) >= 0.5:
        return files
    having = [each.folders[0] for each in looked if share_found(rows, each, reading, where) > 0]
    if (part := part_of(path.stem)) is not None:
        having = [folder for folder in having if part_of(folder) in (part, None)] or having
    return NamedFiles(files.root, files.suffix, having) if having else files


class _Named(NamedTuple):
    """The files of the rows: names, places of their rows (i64), what was rejected, and what the cells lack."""

    names: list[str]
    kept: np.ndarray
    others: Listing
    suffixes: Counter[str]
    respelled: int


def _named(body: Sequence[list[str]], lines: Sequence[int], path: int, files: NamedFiles, where: str) -> _Named:
    """The file of each row. Raises InputError if two rows name the same one."""
    first: dict[str, int] = {}
    names, kept, others, suffixes, respelled = [], [], Listing(), Counter(), 0
    twice: list[str] = []
    for i, (row, line) in enumerate(zip(body, lines, strict=True)):
        name, reason = files.find(row[path])
        if name is None:
            others.rejected.append((row[path][:LONGEST] or "a row without a file", f"line {line}: {reason}"))
        key = os.path.abspath(files.root / (row[path].replace("\\", "/") if name is None else name))
        if key in first and row[path]:
            as_written = body[first[key]][path]
            spelled = f", once as {brief(as_written)}" if as_written != row[path] else ""
            twice.append(f"{brief(row[path])} (lines {lines[first[key]]} and {line}{spelled})")
        first.setdefault(key, i)
        if name is None:
            continue
        names.append(name)
        kept.append(i)
        suffix = os.path.splitext(name)[1]
        if suffix.lower() != os.path.splitext(row[path])[1].lower():
            suffixes[suffix] += 1
        else:
            respelled += os.path.basename(name) != row[path].replace("\\", "/").rpartition("/")[2]
    if twice:
        raise InputError(f"{where}: files that are listed twice ({len(twice)}): {some(twice)}; leave a row for each")
    return _Named(names, np.array(kept, np.int64), others, suffixes, respelled)


def _labels(body: Sequence[list[str]], lines: Sequence[int], columns: Columns, reading: Reading, where: str) -> Labels:
    if columns.one_hot:
        return _one_hot(body, lines, columns, reading, where)
    if columns.label is None:
        return Labels(np.full(len(body), -1, np.int64), None, ())
    cells = [row[columns.label] for row in body]
    return labels_of(cells, reading.missing, f"{where}, {columns.named(columns.label)}")


def _one_hot(body: Sequence[list[str]], lines: Sequence[int], columns: Columns, reading: Reading, where: str) -> Labels:
    """Labels of columns that are 1 for the class of a row; a row of zeros or of empty cells has none."""
    classes = class_names([(columns.header or [])[column] for column in columns.one_hot], where)
    numbers, absent = np.full(len(body), -1, np.int64), {"", *(reading.missing or ("nan", "NaN"))}
    for i, (row, line) in enumerate(zip(body, lines, strict=True)):
        cells = [row[column] for column in columns.one_hot]
        values = [False if cell in absent else is_one(cell) for cell in cells]
        if None in values or sum(map(bool, values)) > 1:
            pairs = zip(classes, cells, strict=True)
            shown = some([f"{brief(name)} {brief(cell)}" for name, cell in pairs if cell != "0"])
            raise InputError(f"{where}: line {line}: expected 1 for one of the classes and 0 for others, got {shown}")
        if any(values):
            numbers[i] = values.index(True)
    n = int((numbers < 0).sum())
    return Labels(numbers, classes, (f"rows without a label: {n:,} (no class is 1)",) if n else ())


def _note(n: int, encoding: str, delimiter: str, columns: Columns, found: _Named, files: NamedFiles) -> str:
    """How the table was read, in one line."""
    named = f"files from {columns.named(columns.path)}"
    if found.suffixes:
        named += f" with {' or '.join(sorted(found.suffixes))}"
    if files.folders != ("",):
        named += f" in {', '.join(map(escape, files.folders))}"
    if columns.one_hot:
        classes = f"classes from the columns {', '.join(brief((columns.header or [])[i]) for i in columns.one_hot)}"
    else:
        classes = "no classes" if columns.label is None else f"classes from {columns.named(columns.label)}"
    by = f", {delimiter}" if columns.label is not None or columns.one_hot else ""
    header = "" if columns.header else ", no header"
    encoding += ", a guess, as it is no UTF-8" if encoding in ("cp1252", "latin-1") else ""
    named += f", {found.respelled:,} of them spelled otherwise" if found.respelled else ""
    return f"table: {count(n, 'row')}, {encoding}{by}{header}; {named}, {classes}"
