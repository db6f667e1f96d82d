"""Turn the cells of a table's label column into classes and class numbers.

    labels = labels_of(["cat", "nan", "dog"], (), "labels.csv")
    labels.classes, labels.numbers      # ("cat", "dog"), [0, -1, 1]

A cell means that the image has no label if it is empty; if it is NaN, null, n/a, ?, -1 or -1.0; or if it is NA or None
and the other cells are numbers, or are written otherwise: `NA` is a class among `DE` and `FR`, and no label among `cat`
and `dog`. A note names classes that sound like no label, such as `unknown`. `--missing` replaces all of these but the
empty cell by the words that it names.

If all other cells are whole numbers (3, 3.0, 3.0e+00), the classes are all numbers from 0, or from 1 where no label is
0, to the largest; if most of these would be empty, the numbers that occur. Else they are the cells in alphabetical
order.
"""

import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.errors import InputError
from pipeline.sources.classes import alike, class_name, class_names
from pipeline.store.sample_names import brief
from pipeline.text import count, some

NO_LABEL = {"", "nan", "-nan", "null", "n/a", "#n/a", "<na>", "?", "-1", "-1.0", "unlabelled", "unlabeled"}
PERHAPS = {"na", "none"}  # in some tables a class
SOUNDS_MISSING = {
    "-", "--", ".", "unknown", "missing", "undefined", "empty", "tbd", "notlabeled", "notlabelled", "nolabel",
    "notavailable", "unspecified",
}  # fmt: skip
"""Cells, small and without signs between words, that are classes, and of which a note says that they may be none."""
MISSING_CODES = {
    99,
    255,
    999,
    9999,
}  # numbers that stand for no label in some tables, where they are far from the others
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+|\d+\.\d*[eE][+-]?\d{1,3})", re.ASCII)  # 3.0e+00, but no code 1E2
WHOLE = re.compile(r"\A([+-]?\d+)\.0*\Z", re.ASCII)  # 3.0, as pandas writes a column with gaps
PADDED = re.compile(r"0\d+", re.ASCII)
DIGITS = 15  # of a class number at most
SHOWN = 5


class Labels(NamedTuple):
    """Class numbers i64 [N], -1 where there is none, the names of the classes, and what the user should know."""

    numbers: np.ndarray
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]


def labels_of(cells: Sequence[str], missing: Sequence[str], where: str) -> Labels:
    """Give each cell of one column its class; cells have no white space around them.

    missing  words that mean no label, instead of the usual ones, if any
    where    what a message begins with: the table and its column

    Raises InputError if numbers are no class numbers, or if it cannot be known whether a cell is a label.
    """
    counts = Counter(cells)
    absent = _absent(counts, missing)
    known = {cell: count for cell, count in counts.items() if cell not in absent}
    notes = [*_missing_notes(counts, absent, missing), *_kept_notes(known, missing)]
    if not known:
        return Labels(np.full(len(cells), -1, np.int64), None, tuple(notes))
    if all(NUMBER.fullmatch(cell) for cell in known) and not any(PADDED.fullmatch(cell) for cell in known):
        classes, place = _numbered(known, absent, missing, where)
    else:
        classes = class_names(sorted({class_name(cell) for cell in known}), where)
        index = {name: i for i, name in enumerate(classes)}
        place = {cell: index[class_name(cell)] for cell in known}
        _check_padded(known, where)
    used = set(place.values())
    empty = [name for i, name in enumerate(classes) if i not in used]
    if empty:
        notes.append(f"class numbers that no row has are classes without an image: {_some(empty)}")
    if len(classes) > max(10, sum(known.values()) // 2):
        rows = count(sum(known.values()), "labelled row")
        notes.append(f"{count(len(classes), 'class')} for {rows}: is this the label column?")
    numbers = np.array([place.get(cell, -1) for cell in cells], np.int64)
    return Labels(numbers, classes, (*notes, *alike(classes)))


def _absent(counts: Mapping[str, int], missing: Sequence[str]) -> set[str]:
    """The cells that mean no label."""
    if missing:
        return {"", *missing} & counts.keys()
    sure = {cell for cell in counts if cell.lower() in NO_LABEL}
    others = [cell for cell in counts if cell not in sure and cell.lower() not in PERHAPS]
    return sure | {cell for cell in counts if cell.lower() in PERHAPS and not _written_like(cell, others)}


def _written_like(word: str, others: Collection[str]) -> bool:
    """Whether most of the other cells are in capitals, small or capitalised as `word` is."""
    like = sum(_case(other) == _case(word) for other in others)
    return 2 * like > len(others)


def _case(word: str) -> str:
    kinds = {"capitals": word.isupper(), "small": word.islower(), "capitalised": word.capitalize() == word}
    return next((kind for kind, holds in kinds.items() if holds and any(map(str.isalpha, word))), "other")


def _missing_notes(counts: Mapping[str, int], absent: set[str], missing: Sequence[str]) -> Iterable[str]:
    if absent:
        each = ", ".join(f"{brief(cell) or 'empty'} {counts[cell]:,}" for cell in sorted(absent))
        yield f"rows without a label: {sum(counts[cell] for cell in absent):,} ({each})"
    unused = [word for word in missing if word and word not in counts]
    if unused:
        yield f"--missing: no row has {_some(unused)}"


def _kept_notes(known: Mapping[str, int], missing: Sequence[str]) -> Iterable[str]:
    for cell in sorted(known):
        if not missing and (cell.lower() in PERHAPS or _sounds_missing(cell, known)):
            named = shlex.quote(cell)
            yield f"{cell} ({count(known[cell], 'row')}) is taken for a class; --missing {named} if it means no label"


def _sounds_missing(cell: str, known: Collection[str]) -> bool:
    """Whether a class is called as missing labels are in other tables, or is a code for these far above the others."""
    if len(cell) < 5 and NUMBER.fullmatch(cell) and float(cell) in MISSING_CODES:
        return float(cell) > 2 * len(known)
    return (re.sub(r"[\s_-]+", "", cell.lower()) or cell) in SOUNDS_MISSING


def _numbered(
    known: Mapping[str, int], absent: set[str], missing: Sequence[str], where: str
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Classes of whole numbers, and the place of each cell."""
    rows, number = sum(known.values()), {cell: _whole(cell, where) for cell in known}
    numbers = sorted(set(number.values()))
    if numbers[0] < 0:
        hint = "if it means no label, see --missing"
        raise InputError(f"{where}: expected class numbers from 0, got {numbers[0]} for {count(rows, 'row')}; {hint}")
    if not missing and numbers == [1] and absent & {"-1", "-1.0"}:
        raise InputError(f"{where}: its labels are 1 and -1; add --missing -1 if -1 means no label, else write names")
    low = 0 if numbers[0] == 0 else 1
    if numbers[-1] - low + 1 <= 2 * len(numbers):
        return tuple(map(str, range(low, numbers[-1] + 1))), {cell: n - low for cell, n in number.items()}
    if numbers[-1] > 10 * rows + 1000 and 2 * len(numbers) > rows:
        raise InputError(f"{where}: expected class numbers, got {numbers[-1]} for {count(rows, 'row')}; write names")
    index = {n: i for i, n in enumerate(numbers)}
    return tuple(map(str, numbers)), {cell: index[n] for cell, n in number.items()}


def _whole(cell: str, where: str) -> int:
    if len(cell) > 40:
        raise InputError(f"{where}: expected class numbers, got one of {len(cell)} characters, {cell[:20]}...")
    value = float(cell)
    if not value.is_integer():
        raise InputError(f"{where}: expected class numbers or names, got {brief(cell)}, which is a measure")
    if abs(value) >= 10**DIGITS:
        raise InputError(f"{where}: expected class numbers of up to {DIGITS} digits, got {cell}")
    return int(value)


def _check_padded(known: Mapping[str, int], where: str) -> None:
    """Raise InputError if 1 and 01, or 1 and 1.0, are both there."""
    shortest: dict[str, str] = {}
    for cell in known:
        number = WHOLE.sub(r"\1", cell)
        if not number.isdecimal():
            continue
        other = shortest.setdefault(number.lstrip("0") or "0", cell)
        if other != cell:
            raise InputError(f"{where}: has both {brief(other)} and {brief(cell)}; write one class in one way")


def _some(names: Sequence[str]) -> str:
    return some([*map(brief, names)], SHOWN) + (f" ({len(names):,} in all)" if len(names) > SHOWN else "")
