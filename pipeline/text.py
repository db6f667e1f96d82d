"""Numbers and tables as people read them; files keep shares as fractions. The standard library only."""

import difflib
from collections.abc import Sequence
from statistics import fmean, stdev

NO_SHARES = "images", "mse", "blank", "nll", "loss", "hours", "cost", "memory", "score", "gflops"
"""What the names of numbers hold that are no shares, though they may lie between 0 and 1."""


def percent(*shares: float, decimals: int = 1) -> str:
    """A share, 0 to 1, as papers' tables have it, 51.0 %; of several, mean ± sample standard deviation (n)."""
    return _said([100 * share for share in shares], f".{decimals}f", " %")


def number(*values: float) -> str:
    """Four digits, and all before the point, 0.01234, 1.5, 12,345; of several, mean ± sample standard deviation (n)."""
    return _said(values, ",.0f" if abs(fmean(values)) >= 1000 else ".4g", "")


def is_share(name: str, values: Sequence[float]) -> bool:
    """Whether numbers of this name are shares, 0 to 1, and are to be shown in percent."""
    return not any(each in name for each in NO_SHARES) and all(0 <= value <= 1 for value in values)


def measured(name: str, value: float) -> str:
    """What an evaluation found, by its name: a share in percent, or a number."""
    return percent(value) if is_share(name, (value,)) else number(value)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and that there are more, if there are."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def table(rows: Sequence[Sequence[str]], *, aligned: bool = False) -> str:
    """Make a table in Markdown, each line ended; the first row is the head, the first column the rows' names.

    aligned  pad the cells, so that columns line up in a terminal: names to the left, numbers to the right
    """
    least = [3, *[4] * (len(rows[0]) - 1)]
    widths = [max(width, *map(len, cells)) for width, cells in zip(least, zip(*rows, strict=True), strict=True)]
    first, *numbers = widths if aligned else least
    rule = ["-" * first, *(f"{'-' * (width - 1)}:" for width in numbers)]
    if aligned:
        rows = [[row[0].ljust(first), *(c.rjust(w) for c, w in zip(row[1:], numbers, strict=True))] for row in rows]
    return "".join(f"{line(cells)}\n" for cells in (rows[0], rule, *rows[1:]))


def line(cells: Sequence[str]) -> str:
    """One row of a table in Markdown, for those that are printed as they come."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _said(values: Sequence[float], form: str, unit: str) -> str:
    if len(values) == 1:
        return f"{values[0]:{form}}{unit}"
    return f"{fmean(values):{form}} ± {stdev(values):{form}}{unit} ({len(values)})"


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Say, behind a wrong name, which of `names` is the most similar: "; did you mean mae:digits?", or nothing."""
    near = difflib.get_close_matches(name, names, 1, 0.4)
    return f"; did you mean {near[0]}?" if near else ""
