"""Find out what the columns of a table mean: which one names the files, and which one or which ones hold the classes.

    columns = choose(rows, files, Reading(), "labels.csv")
    columns.path, columns.label, columns.header      # 0, 2, ["path", "patient", "label"]

The files are named by the column most of whose cells are files. The classes are in the column whose name says so
(`LABEL_WORDS`), else in the other one of two columns, else in columns that hold a single 1 in each row. Where this has
no answer or several, InputError lists the columns and the flag that chooses one.
"""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple, final

from pipeline.errors import InputError
from pipeline.sources.cells.named_files import NamedFiles
from pipeline.sources.listing import SUFFIXES
from pipeline.sources.reading import Reading
from pipeline.store.sample_names import brief, escape
from pipeline.text import some

PATH_WORDS = {
    "path", "file", "filename", "filepath", "image", "img", "name", "imageid", "imgid", "imagename", "imgname",
    "imagepath", "imgpath", "imagefile", "imagefilename", "id", "idcode", "photo", "picture",
}  # fmt: skip
LABEL_WORDS = {
    "label", "labels", "labelname", "labelid", "class", "classes", "classname", "classid", "classlabel", "category",
    "categoryname", "categoryid", "target", "diagnosis", "dx", "species", "breed", "disease", "groundtruth", "gt",
}  # fmt: skip
NO_CLASSES = re.compile(
    r"(data|cv|k|traintest|trainval)?(split|fold|subset|partition|phase|usage|set)(no|number|id|name)?\d*|dataset|"
    r"(is|in)?(train|training|test|testing|val|valid|validation|dev|holdout)(set|split)?|"
    r"(patient|subject|case|person|user|study|series|lesion|slide|session|photographer|observation)(id|no|number|code)?|"
    r"(image|img)?(width|height|w|h|size|area)|[xy](min|max|\d)?|bbox|url|md5|sha\d*|hash|date|time(stamp)?|"
    r"lat(itude)?|lon(gitude)?|age|caption|text|description"
)
"""Names, small and without signs between words, of columns that hold no classes unless --label-column says so."""
EVIDENCE_ROWS = 200  # rows, evenly spread over the table, on which the column of the files is found
FEW_ROWS = 10  # from here on a column that is different in each row is taken for no classes, unless it is called so
SHOWN = 40


@final
class Columns(NamedTuple):
    """Numbers of columns from 0, and their names, None where the table has no header.

    label    of the classes, or None where they are in the columns `one_hot`, or nowhere
    """

    path: int
    label: int | None
    one_hot: tuple[int, ...]
    header: list[str] | None

    def named(self, column: int) -> str:
        """What a column is called in messages."""
        return f"column {brief(self.header[column]) if self.header and self.header[column] else column + 1}"


def choose(rows: Sequence[list[str]], files: NamedFiles, reading: Reading, where: str) -> Columns:
    """The columns of a table's rows, which all have the same number of cells.

    Raises InputError where they cannot be known, or where those that were asked for are not there.
    """
    asked = [name for name in (reading.path_column, reading.label_column, *reading.one_hot) if name is not None]
    named = any(_place(name, rows[0]) is not None for name in asked)
    path = _path(rows, files, reading, where)
    header = rows[0] if named or _is_header(rows, path, files) else None
    if header and len(rows) > 1 and _is_title(rows[1], path, files):
        raise InputError(
            f"{where}: its second row reads like the header; remove what stands above: {brief(rows[0][0])}"
        )
    if reading.one_hot:
        one_hot = tuple(_asked(name, rows[0] if header else None, rows, "--one-hot", where) for name in reading.one_hot)
        return Columns(path, None, one_hot, header)
    if reading.label_column is not None:
        label = _asked(reading.label_column, header, rows, "--label-column", where)
        return Columns(path, label, (), header)
    return _labelled(rows, path, header, where)


def share_found(rows: Sequence[list[str]], files: NamedFiles, reading: Reading, where: str) -> float:
    """The share of some rows whose file is found, by the column that was asked for, else by the one that finds most."""
    evidence = found_files(rows, files)
    if reading.path_column is not None:
        column = _asked(reading.path_column, rows[0], rows, "--path-column", where)
        evidence = [_evidence([row[column] for row in spread(rows)], files)]
    return max(hits for _, hits, *_ in evidence) / len(spread(rows))


def found_files(rows: Sequence[list[str]], files: NamedFiles) -> list[tuple[int, int, int, int]]:
    """How well each column names files, on some rows: (files, cells that are files, as they are written, images).

    `files` counts different ones: a column of classes may by chance name a few files often. A column that cannot be
    meant has zeros.
    """
    some_rows, able = spread(rows), _able(rows)
    return [
        _evidence([row[column] for row in some_rows], files) if able[column] else (0, 0, 0, 0)
        for column in range(len(rows[0]))
    ]


def spread(rows: Sequence[list[str]]) -> Sequence[list[str]]:
    """Up to EVIDENCE_ROWS rows, evenly spread; the first, which may be a header, only where there is no other."""
    body = rows[1:] or rows
    return body[:: max(1, -(-len(body) // EVIDENCE_ROWS))]


def _evidence(cells: Sequence[str], files: NamedFiles) -> tuple[int, int, int, int]:
    matches = [(cell, files.find(cell).name) for cell in cells]
    hits = [(cell, name) for cell, name in matches if name is not None]
    images = sum(os.path.splitext(name)[1].lower() in SUFFIXES for _, name in hits)
    return len({name for _, name in hits}), len(hits), sum(cell == name for cell, name in hits), images


def _path(rows: Sequence[list[str]], files: NamedFiles, reading: Reading, where: str) -> int:
    """The number of the column that names the files."""
    if reading.path_column is not None:
        return _asked(reading.path_column, rows[0], rows, "--path-column", where)
    if len(rows) == 1 and {word(cell) for cell in rows[0]} & (PATH_WORDS | LABEL_WORDS):
        raise InputError(f"{where}: expected rows with images below the header, found none")
    n, named, evidence = len(spread(rows)), _named_as_images(rows), found_files(rows, files)
    best = max(evidence)
    if 2 * best[1] < n:
        if sum(named) == 1:  # then it is known what is meant, and each file that is not there is named
            return named.index(True)
        raise InputError(f"{where}: {_nowhere(rows, evidence, files)}")
    several = [column for column, each in enumerate(evidence) if each == best]
    if len(several) > 1:
        names = [rows[0][column] or str(column + 1) for column in several]
        raise InputError(
            f"{where}: several columns name files: {some([*map(brief, names)], SHOWN)}; choose with --path-column"
        )
    return several[0]


def _able(rows: Sequence[list[str]]) -> list[bool]:
    """Which columns may name files: those whose cells end as images do, where there are any; no column of classes.

    Classes called 1 and 2 would else be taken for files 1.jpg and 2.jpg where those that are meant are not there.
    """
    named = _named_as_images(rows)
    return named if any(named) else [word(name) not in LABEL_WORDS for name in rows[0]]


def _named_as_images(rows: Sequence[list[str]]) -> list[bool]:
    """Of which columns most cells end as the names of images do."""
    some_rows = spread(rows)
    return [
        2 * sum(os.path.splitext(row[column])[1].lower() in SUFFIXES for row in some_rows) >= len(some_rows)
        for column in range(len(rows[0]))
    ]


def _nowhere(rows: Sequence[list[str]], evidence: Sequence[tuple[int, ...]], files: NamedFiles) -> str:
    """What to say of a table whose cells are no files."""
    hits, n = [each[1] for each in evidence], len(spread(rows))
    words = [column for column, name in enumerate(rows[0]) if word(name) in PATH_WORDS]
    column = hits.index(max(hits)) if max(hits) else (words or [0])[0]
    lost = next((cell for row in spread(rows) if files.find(cell := row[column]).name is None), None)
    if lost is None:
        return f"column {brief(rows[0][column])} is called as classes are; if it names the files, give --path-column"
    reason = files.find(lost).reason
    return (
        f"expected a column that names files in {escape(str(files.root))}, found none: of column "
        f"{brief(rows[0][column]) or column + 1} {hits[column]} of {n} cells are files, '{brief(lost)}' is not "
        f"({reason}); columns: {_listed(rows)}; see --image-folder, --suffix and --path-column"
    )


def _is_header(rows: Sequence[list[str]], path: int, files: NamedFiles) -> bool:
    """Whether the first row names the columns, where the column `path` names files.

    It does not if its cell is a file, or looks like one; nor if another of its cells comes again in its column, unless
    it is one of the usual names.
    """
    first, body = rows[0], rows[1:]
    name = files.find(first[path]).name
    is_file = name == first[path] if _named_as_images(rows)[path] else name is not None
    if is_file or os.path.splitext(first[path])[1].lower() in SUFFIXES:
        return False
    if {word(cell) for cell in first} & (PATH_WORDS | LABEL_WORDS):
        return True
    if "/" in first[path] or "\\" in first[path]:
        return False
    others = [column for column in range(len(first)) if column != path and first[column]]
    return not any(first[column] == row[column] for column in others for row in body)


def _is_title(second: list[str], path: int, files: NamedFiles) -> bool:
    """Whether a row names columns, so that what stands above it is a title."""
    usual = {word(cell) for cell in second} & (PATH_WORDS | LABEL_WORDS)
    return word(second[path]) in PATH_WORDS and len(usual) > 1 and files.find(second[path]).name is None


def _labelled(rows: Sequence[list[str]], path: int, header: list[str] | None, where: str) -> Columns:
    """The column of the classes, where nobody said which it is."""
    body = rows[1:] if header else rows
    others = [column for column in range(len(rows[0])) if column != path and not _is_index(header, body, column)]
    named = [column for column in others if header and word(header[column]) in LABEL_WORDS]
    named = named if len(named) < 2 else _one_of(named, body)
    if len(named) == 1:
        return Columns(path, named[0], (), header)
    hint = f"columns: {_listed(rows, header)}; choose with --label-column, or --one-hot for one column a class"
    if named:
        several = some([brief((header or [])[column]) for column in named], SHOWN)
        raise InputError(f"{where}: several columns could hold the classes: {several}; {hint}")
    if not others:
        return Columns(path, None, (), header)
    if len(others) == 1:
        found = Columns(path, others[0], (), header)
        if header and NO_CLASSES.fullmatch(word(header[others[0]])):
            raise InputError(f"{where}: {found.named(others[0])} does not look like classes; {hint}")
        if len(body) >= FEW_ROWS and len({row[others[0]] for row in body}) == len(body):
            raise InputError(f"{where}: {found.named(others[0])} is different in each row, as no classes are; {hint}")
        return found
    if header and _is_one_hot(header, body, others):
        return Columns(path, None, tuple(others), header)
    raise InputError(f"{where}: it is not clear which column holds the classes; {hint}")


def _is_index(header: list[str] | None, body: Sequence[list[str]], column: int) -> bool:
    """Whether a column is empty, or counts the rows and has no name, as pandas writes it."""
    if header and header[column] and not header[column].startswith("Unnamed"):
        return False
    cells = [row[column] for row in body]
    numbers = [str(i) for i in range(len(cells) + 1)]
    return not any(cells) or (header is not None and cells in (numbers[:-1], numbers[1:]))


def _one_of(columns: Sequence[int], body: Sequence[list[str]]) -> list[int]:
    """One column where all are the same classes by other names, such as numbers and names; else all of them."""
    first = columns[0]
    for other in columns[1:]:
        pairs = {(row[first], row[other]) for row in body}
        if len(pairs) != len({a for a, _ in pairs}) or len(pairs) != len({b for _, b in pairs}):
            return list(columns)
    names = [column for column in columns if not all(re.fullmatch(r"[\d.]*", row[column]) for row in body)]
    return (names or list(columns))[:1]


def _is_one_hot(header: list[str], body: Sequence[list[str]], columns: Sequence[int]) -> bool:
    """Whether every row has a single 1 in `columns` and 0 else, or nothing at all; columns need names of classes."""
    if any(not header[column] or NO_CLASSES.fullmatch(word(header[column])) for column in columns):
        return False
    for row in body:
        values = {row[column] for column in columns}
        ones = sum(is_one(row[column]) or 0 for column in columns)
        if values != {""} and (ones != 1 or any(is_one(value) is None for value in values)):
            return False
    return True


def is_one(cell: str) -> bool | None:
    """Whether a cell is 1, False where it is 0, None where it is neither."""
    if re.fullmatch(r"[01](\.0*)?", cell):
        return cell[0] == "1"
    return None


def word(name: str) -> str:
    """A column's name, small and without signs between words."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _place(name: str, header: Sequence[str]) -> int | None:
    """The number of the column of that name, the first of several."""
    return list(header).index(name) if name in header else None


def _asked(name: str, header: Sequence[str] | None, rows: Sequence[list[str]], flag: str, where: str) -> int:
    """The number of the column that a flag names, by name or by number from 1."""
    place = None if header is None else _place(name, header)
    if place is not None and list(header or ()).count(name) > 1:
        raise InputError(f"{where}: {flag} {brief(name)}: several columns have this name; give a number from 1")
    if place is None and re.fullmatch(r"\d{1,6}", name, re.ASCII) and 1 <= int(name) <= len(rows[0]):
        return int(name) - 1
    if place is None:
        raise InputError(f"{where}: {flag} {brief(name)}: no such column; columns: {_listed(rows, header)}")
    return place


def _listed(rows: Sequence[list[str]], header: Sequence[str] | None = None) -> str:
    """The columns as a message names them: by the names in the header, else by number and first cell."""
    first = rows[0]
    names = [name or str(i) for i, name in enumerate(first, 1)] if header or len(rows) < 2 else None
    return some([*map(brief, names or [f"{i} ('{brief(cell, 30)}')" for i, cell in enumerate(first, 1)])], SHOWN)
