"""Figures: which cells of a chain's table (models.config.chain) are the points of a paper's figure, and on which axes.

    Figure("masking ratio (%)", (Panel((line_along("fine-tuning", "finetune", (10, 50, 90)),)),), ours="ImageNet")

The paper's own points are the chain's values of the same cells. `python -m models.evaluate.chain_figure SWEEP` draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

FILE = "figure.svg"
"""The picture, in the sweep's folder."""


@final
@dataclass(frozen=True)
class PaperLine:
    """A line of the paper's figure, apart from the chain's table. y: as papers print it, shares in percent."""

    title: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@final
@dataclass(frozen=True)
class Line:
    """One line of a figure: cells of the chain's table, from left to right.

    title    in the legend
    cells    (row, stage) of each point: the row's index, and the stage's name
    x        of each point; or the name of the stage whose number it is, in the same row
    paper_x  of the paper's points, where its axis has another unit
    paper    the paper's line, where it has more points than the table; else it is the table's values of these cells
    """

    title: str
    cells: tuple[tuple[int, str], ...]
    x: tuple[float, ...] | str
    paper_x: tuple[float, ...] | None = None
    paper: PaperLine | None = None


@final
@dataclass(frozen=True)
class Panel:
    """Lines that share a pair of axes, and the paper's other lines there, beside which nothing is measured here."""

    lines: tuple[Line, ...]
    others: tuple[PaperLine, ...] = ()


@final
@dataclass(frozen=True)
class Figure:
    """How a chain's table is drawn.

    x        label of the horizontal axis
    panels   one above the other, each with a vertical axis of its own
    ours     what ours is measured on, such as "digits"
    paper_x  label of the paper's horizontal axis, where that is another
    apart    the paper's points have axes of their own, to the left of ours: other data, or another unit
    log      the horizontal axis is logarithmic, with marks at the points
    joined   neighbours are joined by a line; else each point bears the name of its row
    """

    x: str
    panels: tuple[Panel, ...]
    ours: str
    paper_x: str | None = None
    apart: bool = False
    log: bool = False
    joined: bool = True


def line_along(
    title: str, stage: str, x: Sequence[float] | str, paper_x: Sequence[float] | None = None, rows: Sequence[int] = ()
) -> Line:
    """Build the line of one stage along the rows of a table: as many as there are x when `rows` names none.

    line_along("SupMAE", "finetune", (100, 200, 400), rows=(0, 1, 2))
    """
    rows = rows or range(len(x))
    kept = x if isinstance(x, str) else tuple(x)
    return Line(title, tuple((row, stage) for row in rows), kept, None if paper_x is None else tuple(paper_x))


def figure_from(known: Mapping) -> Figure:
    """Build a figure from what `dataclasses.asdict` made of it, in JSON.

    Raises KeyError, TypeError or ValueError for anything else.
    """
    panels = tuple(
        Panel(
            tuple(_line(each) for each in panel["lines"]),
            tuple(_paper_line(each) for each in panel["others"]),
        )
        for panel in known["panels"]
    )
    own = None if known["paper_x"] is None else str(known["paper_x"])
    flags = (bool(known[name]) for name in ("apart", "log", "joined"))
    return Figure(str(known["x"]), panels, str(known["ours"]), own, *flags)


def _line(known: Mapping) -> Line:
    cells = tuple((int(row), str(stage)) for row, stage in known["cells"])
    x = known["x"] if isinstance(known["x"], str) else tuple(map(float, known["x"]))
    paper_x = known["paper_x"] and tuple(map(float, known["paper_x"]))
    if {len(cells)} != {len(each) for each in (cells, x, paper_x) if isinstance(each, tuple)}:
        raise ValueError(f"{known['title']}: {len(cells)} cells, {len(x)} places")
    return Line(str(known["title"]), cells, x, paper_x, known["paper"] and _paper_line(known["paper"]))


def _paper_line(known: Mapping) -> PaperLine:
    x, y = (tuple(map(float, known[axis])) for axis in ("x", "y"))
    if len(x) != len(y):
        raise ValueError(f"{known['title']}: {len(x)} places, {len(y)} values")
    return PaperLine(str(known["title"]), x, y)
