"""Read the points of a chain's figure: ours, seed by seed, from its table, and the paper's.

made = drawing(root, known, figure)
made.panels[0][0].ours[0].y  # (92.3, 91.7): the seeds of the first point, in percent
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from models.config.figure import Figure, Line, PaperLine, figure_from
from models.evaluate.chain_table import Cell, States, cells
from pipeline import text
from pipeline.errors import InputError

Cells = Sequence[Sequence[Cell]]


@final
@dataclass(frozen=True)
class Point:
    """A point of ours or of the paper: its name, and its places and values, seed by seed; none where it is missing."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]

    @property
    def there(self) -> bool:
        """Say whether there is anything to draw."""
        return bool(self.x and self.y)


@final
@dataclass(frozen=True)
class Curve:
    """A line of a panel, from left to right. ours: a point for each cell of the table, also where it is missing."""

    title: str
    ours: tuple[Point, ...]
    paper: tuple[Point, ...]


@final
@dataclass(frozen=True)
class Drawing:
    """All that is drawn.

    source    of the paper's points
    panels    curves of each, one panel above the other
    file      on which ours are measured
    settings  flags with which ours were run
    """

    figure: Figure
    source: str
    panels: tuple[tuple[Curve, ...], ...]
    file: str
    settings: str

    @property
    def points(self) -> list[Point]:
        """List the points of ours, the missing ones, too."""
        return [point for panel in self.panels for curve in panel for point in curve.ours]

    def seeds(self) -> str:
        """Say how many seeds the points of ours are a mean of: "n = 3", or "n = 1 to 3"."""
        counts = sorted({len(point.y) for point in self.points if point.there})
        return f"n = {' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))}" if counts else ""

    def count(self) -> str:
        """Say how many points of ours are there, and with which flags they were run."""
        there = sum(point.there for point in self.points)
        with_flags = f"; with {self.settings}" if self.settings else ""
        return f"{there} of {len(self.points)} points of ours are there{with_flags}"

    def missing(self) -> str:
        """Name the points of ours that are missing, by line; "" where none is."""
        held = [
            f"{curve.title}: {', '.join(point.name for point in curve.ours if not point.there)}"
            for panel in self.panels
            for curve in panel
            if not all(point.there for point in curve.ours)
        ]
        return "; ".join(held)


def read_figure(known: Mapping) -> Figure | None:
    """Return how a chain is drawn (models.config.chain.facts); None where it is no figure.

    Raises InputError for facts that are damaged.
    """
    if "figure" not in known:
        return None
    try:
        return figure_from(known["figure"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the facts of {known.get('sweep')} hold no figure ({error}); submit it again") from error


def drawing(root: Path, known: Mapping, figure: Figure, states: States | None = None) -> Drawing:
    """Read the points of a figure from a chain's table.

    Ours are those on test where every run of the figure that is over has it, else those on val.

    Raises InputError for facts that are damaged, and for a figure of cells that the table does not have.
    """
    table = cells(root, known, states)
    stages = [column["stage"] for column in known["columns"]]
    try:
        held = [_cell(table, stages, *each) for panel in figure.panels for line in panel.lines for each in line.cells]
        found = [cell.files for cell in held if cell.files]
        file = "test" if found and all("test" in files for files in found) else "val"
        panels = tuple(
            tuple(_curve(table, stages, line, file) for line in panel.lines)
            + tuple(Curve(line.title, (), _of_paper(line)) for line in panel.others)
            for panel in figure.panels
        )
    except (IndexError, ValueError) as error:
        raise InputError(f"{root}: its table does not have the figure's cells ({error}); submit it again") from error
    return Drawing(figure, known["source"], panels, file, " ".join(known["overrides"]))


def _cell(table: Cells, stages: Sequence[str], row: int, stage: str) -> Cell:
    if not 0 <= row < len(table):
        raise IndexError(f"row {row} of {len(table)}")
    return table[row][stages.index(stage)]


def _curve(table: Cells, stages: Sequence[str], line: Line, file: str) -> Curve:
    ours, paper = [], []
    across = len({row for row, _ in line.cells}) == 1 < len(line.cells)
    for number, (row, stage) in enumerate(line.cells):
        cell = _cell(table, stages, row, stage)
        name = cell.column if across else cell.row
        x: tuple[float, ...]
        if isinstance(line.x, str):
            place = _cell(table, stages, row, line.x)
            x = tuple(place.values(place.files[0])) if place.files else ()
            paper_x = place.paper
        else:
            x = (line.x[number],)
            paper_x = (line.paper_x or line.x)[number]
        values = cell.values(file)
        scale = 100 if text.is_share(cell.name, values) else 1
        ours.append(Point(name, x, tuple(scale * value for value in values)))
        if paper_x is not None and cell.paper is not None:
            paper.append(Point(name, (paper_x,), (cell.paper,)))
    return Curve(line.title, tuple(ours), tuple(paper) if line.paper is None else _of_paper(line.paper))


def _of_paper(line: PaperLine) -> tuple[Point, ...]:
    return tuple(Point(line.title, (x,), (y,)) for x, y in zip(line.x, line.y, strict=True))
