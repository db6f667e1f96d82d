"""Draw a figure of a chain with matplotlib: the paper's points dashed and crossed, ours solid and round."""

import io
from collections.abc import Sequence
from math import isnan, nan
from statistics import fmean, stdev
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure as Page
from matplotlib.ticker import FixedLocator, NullLocator

from models.evaluate.chain_figure_points import Curve, Drawing, Point
from models.reporting.figures import COLOURS, INK, LINE, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes


WIDTH, HEIGHT = 4.9, 2.5  # inches of a pair of axes
SMALL = 7
DASHES = (0, (4, 3))
STYLE: dict[Any, Any] = {"svg.hashsalt": "figure", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
"""Whatever a matplotlibrc says, the same points give the same bytes."""


def draw(made: Drawing) -> tuple[bytes, bytes]:
    """Draw a figure; return it as SVG and as PNG.

    svg, png = draw(drawing(root, known, figure))
    """
    figure, panels = made.figure, made.panels
    columns = 2 if figure.apart else 1
    with matplotlib.rc_context(STYLE):
        page = Page(figsize=(WIDTH * columns if figure.apart else 1.3 * WIDTH, HEIGHT * len(panels) + 0.9),
                    dpi=150, layout="constrained")  # fmt: skip
        grid = page.subplots(len(panels), columns, squeeze=False)
        for row, curves in zip(grid, panels, strict=True):
            for axes in row:
                _plain(axes)
            _paper(row[0], curves, made)
            _ours(row[-1], curves, made)
            for axes in row:
                _finish(axes, curves, made, of_paper=axes is row[0] and figure.apart)
        if figure.apart:
            grid[0][0].set_title(fill(made.source, 64), fontsize=9, color=INK)
            grid[0][-1].set_title(_whose(made), fontsize=9, color=INK)
        if not figure.joined:
            _legend_below(page, grid[0])
        page.supxlabel(made.count(), fontsize=SMALL, color=SOFT)
        return _bytes(page, "svg", {"Date": None, "Creator": None}), _bytes(page, "png", {"Software": None})


def _bytes(page: Page, kind: str, metadata: dict) -> bytes:
    buffer = io.BytesIO()
    page.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=SOFT, labelsize=8, length=3)
    axes.grid(axis="y", color=LINE, lw=0.8)
    axes.set_axisbelow(True)
    axes.margins(0.07, 0.16)


def _paper(axes: "Axes", curves: Sequence[Curve], made: Drawing) -> None:
    """Draw the paper's points: a line of each curve, or each point by itself."""
    figure = made.figure
    for curve, colour in zip(curves, _colours(len(curves)), strict=True):
        if not curve.paper:
            continue
        places, values = ([each[0] for each in held] for held in zip(*((p.x, p.y) for p in curve.paper), strict=True))
        if figure.joined:
            title = curve.title if figure.apart else f"{curve.title}, {made.source}"
            axes.plot(places, values, color=colour, marker="x", ms=5, ls=DASHES, lw=1.2, label=title)
            _values(axes, places, values, [0.0] * len(values), colour, below=curve is not curves[0])
        else:
            _apart(axes, curve.paper, _named(curves), marker="x")


def _ours(axes: "Axes", curves: Sequence[Curve], made: Drawing) -> None:
    """Draw ours: the mean of the seeds, their spread, and each seed; a missing point interrupts its line."""
    figure, measured = made.figure, [curve for curve in curves if curve.ours]
    for curve, colour in zip(curves, _colours(len(curves)), strict=True):
        if not curve.ours:
            continue
        if not figure.joined:
            _apart(axes, curve.ours, _named(curves), marker="o")
            continue
        places = [fmean(point.x) if point.there else nan for point in curve.ours]
        values = [fmean(point.y) if point.there else nan for point in curve.ours]
        title = curve.title if figure.apart else f"{curve.title}, {_whose(made)}"
        if any(point.there for point in curve.ours):
            axes.plot(places, values, color=colour, marker="o", ms=4, lw=1.6, label=title)
        _spread(axes, curve.ours, colour)
        if figure.apart:
            spreads = [stdev(point.y) if len(point.y) > 1 else 0.0 for point in curve.ours]
            _values(axes, places, values, spreads, colour, below=curve is not curves[0])
    if not any(point.there for curve in measured for point in curve.ours) and figure.apart:
        axes.text(0.5, 0.5, "none is there yet", transform=axes.transAxes, ha="center", color=SOFT, fontsize=9)
        axes.set_yticks([])
        if not figure.joined:
            axes.set_xticks([])
    places = [place for curve in measured for point in curve.ours for place in point.x]
    if places and figure.joined:
        axes.update_datalim([(place, 0) for place in places], updatey=False)  # as long while points are missing


def _apart(axes: "Axes", points: Sequence[Point], colours: dict[str, str], marker: str) -> None:
    """Draw points that no line joins, each in the colour of its name."""
    for point in points:
        if point.there:
            axes.plot(fmean(point.x), fmean(point.y), color=colours[point.name], marker=marker, ms=7, ls="",
                      mew=2, label=point.name)  # fmt: skip
            _spread(axes, [point], colours[point.name])


def _spread(axes: "Axes", points: Sequence[Point], colour: str) -> None:
    """Draw the sample standard deviation of points of several seeds, and each seed; places may spread, too."""
    for point in points:
        if not point.there or max(len(point.x), len(point.y)) == 1:
            continue
        spreads = [stdev(each) if len(each) > 1 else 0.0 for each in (point.x, point.y)]
        axes.errorbar(fmean(point.x), fmean(point.y), spreads[1], spreads[0] or None, color=colour, lw=1, capsize=3)
        axes.plot([fmean(point.x)] * len(point.y), point.y, color=colour, marker=".", ms=4, ls="", alpha=0.4)


def _values(
    axes: "Axes",
    places: Sequence[float],
    values: Sequence[float],
    spreads: Sequence[float],
    colour: str,
    *,
    below: bool,
) -> None:
    """Print the values at their points, beyond their spreads, as MAE's figures do."""
    for place, value, spread in zip(places, values, spreads, strict=True):
        if not isnan(value):
            end = value - spread if below else value + spread
            axes.annotate(f"{value:.1f}", (place, end), (0, -11 if below else 5), textcoords="offset points",
                          ha="center", color=colour, fontsize=SMALL)  # fmt: skip


def _finish(axes: "Axes", curves: Sequence[Curve], made: Drawing, *, of_paper: bool) -> None:
    """Label the axes, and put marks at the points of a logarithmic one, the missing ones, too."""
    figure = made.figure
    axes.set_xlabel((figure.paper_x or figure.x) if of_paper else figure.x, color=SOFT, fontsize=9)
    measured = "" if of_paper or not figure.apart else f" on {made.file}"
    axes.set_ylabel(f"accuracy{measured} (%)", color=SOFT, fontsize=9)
    if figure.log:
        axes.set_xscale("log", base=2)
        held = [point for curve in curves for point in (curve.paper if of_paper else curve.ours)]
        axes.xaxis.set_major_locator(FixedLocator(sorted({place for point in held for place in point.x})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if figure.joined and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _legend_below(page: Page, row: Sequence["Axes"]) -> None:
    """Name the points of both sides once, below."""
    known = {}
    for axes in row:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(name, handle)
    if known:
        page.legend(known.values(), known.keys(), loc="outside upper center", ncols=2, frameon=False, fontsize=8)


def _named(curves: Sequence[Curve]) -> dict[str, str]:
    """Give each point's name a colour."""
    names = list(dict.fromkeys(point.name for curve in curves for point in (*curve.ours, *curve.paper)))
    return dict(zip(names, _colours(len(names)), strict=True))


def _whose(made: Drawing) -> str:
    seeds = made.seeds()
    return f"ours: {made.figure.ours}{f', on {made.file}, {seeds}' if seeds else ''}"


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]
