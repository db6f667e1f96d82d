"""Format numbers and tables for people; files keep shares as fractions. Imports the standard library only.

percent(0.51)              # "51.0 %"
percent(0.50, 0.52)        # "51.0 ± 1.4 % (2)"
"""

import difflib
from collections.abc import Sequence
from statistics import fmean, stdev

NO_SHARES = ("images", "mse", "blank", "nll", "loss", "hours", "seconds", "cost", "memory", "score", "gflops", "rankme",
             "mcnemar")  # fmt: skip
"""Parts of the names of numbers that are no shares, though they may lie between 0 and 1."""


def percent(*shares: float, decimals: int = 1) -> str:
    """Format a share, 0 to 1, as in papers' tables, 51.0 %; of several, mean ± sample standard deviation (n)."""
    return _formatted([100 * share for share in shares], f".{decimals}f", " %")


def number(*values: float) -> str:
    """Format a number with four digits, or all before the point, 0.01234, 1.5, 12,345; of several, mean ± sample
    standard deviation (n)."""
    return _formatted(values, ",.0f" if abs(fmean(values)) >= 1000 else ".4g", "")


def points(difference: float) -> str:
    """Format a difference of two shares, -1 to 1, with its sign: +1.2 points."""
    return f"{100 * difference:+.1f} points"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Format a number of things: "1 image", "1,197 images", "2 classes"; `plural` where the ending is another."""
    if n == 1:
        return f"1 {noun}"
    return f"{n:,} {plural or noun + ('es' if noun.endswith(('s', 'x', 'tch', 'sh')) else 's')}"


def is_difference(name: str) -> bool:
    """Say whether numbers of this name are differences of shares, to be shown in points."""
    return "difference" in name


def is_share(name: str, values: Sequence[float]) -> bool:
    """Say whether numbers of this name are shares, 0 to 1, to be shown in percent."""
    if is_difference(name):
        return False
    return not any(each in name for each in NO_SHARES) and all(0 <= value <= 1 for value in values)


def measured(name: str, value: float) -> str:
    """Format a number that an evaluation measured, by its name: a share in percent, a difference of shares in points,
    or a number; a dash where there is none."""
    if value != value:
        return "–"
    if is_difference(name):
        return points(value)
    return percent(value) if is_share(name, (value,)) else number(value)


def some(names: Sequence[str], most: int = 3) -> str:
    """List the first few names, and dots where there are more."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def table(rows: Sequence[Sequence[str]], *, aligned: bool = False) -> str:
    """Make a table in Markdown, each line ended; the first row is the head, the first column the rows' names.

    aligned  pad the cells, so that columns line up in a terminal: names to the left, numbers to the right
    """
    first, *numbers = [3, *[4] * (len(rows[0]) - 1)]
    if aligned:
        first, *numbers = [max(4, *map(len, column)) for column in zip(*rows, strict=True)]
        rows = [[row[0].ljust(first), *(c.rjust(w) for c, w in zip(row[1:], numbers, strict=True))] for row in rows]
    rule = ["-" * first, *(f"{'-' * (width - 1)}:" for width in numbers)]
    return "".join(f"{line(cells)}\n" for cells in (rows[0], rule, *rows[1:]))


def line(cells: Sequence[str]) -> str:
    """Make one row of a table in Markdown, for rows that are printed one by one."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _formatted(values: Sequence[float], form: str, unit: str) -> str:
    if len(values) == 1:
        return f"{values[0]:{form}}{unit}"
    return f"{fmean(values):{form}} ± {stdev(values):{form}}{unit} ({len(values)})"


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Say, behind a wrong name, which of `names` is the most similar: "; did you mean mae:digits?", or nothing."""
    near = difflib.get_close_matches(name, names, 1, 0.4)
    return f"; did you mean {near[0]}?" if near else ""
