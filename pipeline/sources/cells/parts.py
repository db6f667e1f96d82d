"""Find the rows of a table that are of one part of a data set: a column may say train, val or test of each.

kept, note = rows_of_part(rows, columns, Reading(rows="split=train"), "labels.csv")
"""

import re
from collections import Counter
from collections.abc import Sequence

from pipeline.errors import InputError
from pipeline.sources.cells.columns import Columns, word
from pipeline.sources.reading import Reading
from pipeline.store.sample_names import brief
from pipeline.text import count, some

PARTS = re.compile(r"(train|training|trn)|(val|valid|validation|dev)|(test|testing|tst|holdout)")
FLAG = re.compile(r"(is|in)?(train|training|test|testing|val|valid|validation|holdout)(set|split)?")
"""Names, small and without signs, of columns with one of two values for the images of a part."""
MOST = 6  # different cells that a column of parts has


def rows_of_part(
    rows: Sequence[list[str]], columns: Columns, reading: Reading, where: str
) -> tuple[list[int], list[str]]:
    """The numbers of the rows that are converted, and a note of which; `rows` are without the header.

    Without --rows every row is, and the note names a column whose cells say train, val and test. Raises InputError for
    a column or a value that is not there.
    """
    header, taken = columns.header, {columns.path, columns.label, *columns.one_hot}
    everything = list(range(len(rows)))
    if reading.rows is not None:
        return _with_value(rows, header, reading.rows, where)
    for column in range(len(header or [])):
        counts, name = Counter(row[column] for row in rows), (header or [])[column]
        parts = {match.lastindex for cell in counts if (match := PARTS.fullmatch(cell.lower()))}
        flagged = len(counts) == 2 and FLAG.fullmatch(word(name))
        if column not in taken and (flagged or (len(counts) <= MOST and len(parts) > 1)):
            shown = some([f"{brief(cell) or 'empty'} {n:,}" for cell, n in counts.items()], MOST)
            one = f"--rows {brief(name)}={brief(next(iter(counts)))}"
            return everything, [f"column {brief(name)} has {shown}: every row is taken; {one} takes those alone"]
    return everything, []


def _with_value(
    rows: Sequence[list[str]], header: list[str] | None, asked: str, where: str
) -> tuple[list[int], list[str]]:
    name, _, value = asked.partition("=")
    if name not in (header or []):
        columns = some([brief(each) for each in header or []], 20) or "none, as the table has no header"
        raise InputError(f"{where}: --rows {brief(asked)}: no such column; columns: {columns}")
    cells = [row[(header or []).index(name)] for row in rows]
    kept = [i for i, cell in enumerate(cells) if cell == value]
    if not kept:
        there = some([brief(cell) or "empty" for cell in sorted(set(cells))], MOST)
        raise InputError(f"{where}: --rows {brief(asked)}: no row has this value; column {brief(name)} has {there}")
    return kept, [f"rows with {brief(asked)}: {len(kept):,} of {count(len(cells), 'row')}"]
