"""Draw the report's figures as PNG; a figure is None if there is nothing to draw."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from warnings import catch_warnings, filterwarnings

import numpy as np

from pipeline.text import is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE = "#1d2733", "#5b6875", "#dfe4e9"
COLOURS = "#2f6690", "#d1603d", "#3a9679", "#8d5a97", "#c9a227", "#5b6875", "#9c3848"
CORRECT, WRONG, UNKNOWN = COLOURS[2], COLOURS[1], "#aab4be"
FLAT, TALL, WIDE = (5.0, 3.0), (5.0, 4.3), (7.2, 3.0)
"""Sizes in inches, at 180 dots an inch; two of the first two stand side by side on a wide page."""
RECALL = "Recall per class", "Share of each class's images that are recognised, and how many labels of it were known."
"""Title and caption of what `recalls` draws."""
Row = dict
Series = dict[str, tuple[list[float], list[float]]]


def series(rows: Sequence[Row], value: Callable[[Row], dict[str, float | None] | None]) -> Series:
    """Steps and values by name, of the rows for which `value` returns numbers.

    series(rows, lambda row: {"loss": row.get("loss")})  # {"loss": ([50, 100], [2.3, 1.9])}
    """
    found: Series = {}
    for row in rows:
        for name, number in (value(row) or {}).items():
            if number is not None:
                steps, numbers = found.setdefault(name, ([], []))
                steps.append(row["step"])
                numbers.append(number)
    return found


def evaluations(rows: Sequence[Row]) -> Series:
    """The series of each evaluation that is a share, 0 to 1, named as in "val top1"."""

    def shares(row: Row) -> dict[str, float | None]:
        values = row.get("values", {}).items()
        held = {key: value for key, value in values if value is not None and is_share(key, (value,))}
        return {f"{row['evaluation']} {key}": value for key, value in held.items()}

    return series([row for row in rows if "evaluation" in row], shares)


def effective_ranks(rows: Sequence[Row]) -> Series:
    """The series of RankMe of each evaluation that measured it, named as in "val rankme"."""

    def ranks(row: Row) -> dict[str, float | None]:
        return {f"{row['evaluation']} {key}": value for key, value in row.get("values", {}).items() if "rankme" in key}

    return series([row for row in rows if "evaluation" in row], ranks)


def curves(
    lines: Series, *, percent: bool = False, log: bool = False, points: bool = False, tall: bool = False
) -> bytes | None:
    """Lines over the step; None if no line has two points.

    percent  values are shares, drawn in percent
    log      a logarithmic axis, if the values span a factor of over 20
    points   a dot at each value, also where there are many
    tall     as high as the confusion beside it
    """
    if all(len(steps) < 2 for steps, _ in lines.values()):
        return None
    figure, axes = _axes(TALL if tall else FLAT)
    for (name, (steps, values)), colour in zip(lines.items(), _colours(len(lines)), strict=True):
        numbers = np.asarray(values) * (100 if percent else 1)
        dots = "o" if points or len(steps) < 12 else None
        axes.plot(steps, numbers, color=colour, lw=1.8, marker=dots, ms=4, label=name)
    flat = np.concatenate([values for _, values in lines.values()])
    if log and flat.min() > 0 and flat.max() > 20 * flat.min():
        _logarithmic(axes, float(flat.max() / flat.min()))
    elif flat.min() >= 0:
        axes.set_ylim(bottom=0)
    if percent:
        axes.set_ylim(top=max(1.0, 105 * min(1.0, 1.1 * float(flat.max()))))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    if len(lines) > 1 or tall:
        _legend(axes)
    _steps(axes)
    return _png(figure)


def classes(passed: np.ndarray, confusion: np.ndarray | None, names: Sequence[str]) -> bytes | None:
    """Bars of the passed pseudo-labels of each class, i64 [C], as correct, wrong or unknown; by frequency if C > 40.

    confusion  i64 [C, C] of those with a known label (true class, predicted class); None: all are unknown
    """
    if passed.sum() == 0:
        return None
    correct = np.zeros_like(passed) if confusion is None else confusion.diagonal()
    known = np.zeros_like(passed) if confusion is None else confusion.sum(0)
    many = len(passed) > 40
    order = np.argsort(-passed, kind="stable") if many else np.arange(len(passed))
    figure, axes = _axes(WIDE)
    base, place = np.zeros(len(passed)), np.arange(len(passed))
    for name, part, colour in (
        ("correct", correct, CORRECT),
        ("wrong", known - correct, WRONG),
        ("truth unknown", passed - known, UNKNOWN),
    ):
        if part.any():
            axes.bar(place, part[order], bottom=base, color=colour, width=1.0 if many else 0.72, label=name)
            base = base + part[order]
    mean = passed.mean()
    axes.axhline(mean, color=INK, lw=1, ls=(0, (4, 3)), label="mean over classes")
    axes.set_xlim(-0.6, len(passed) - 0.4)
    if many:
        axes.set_xlabel("classes, most often predicted first", color=SOFT)
    else:
        turned = max(map(len, names)) > 4
        axes.set_xticks(
            place, names, parse_math=False, rotation=45 if turned else 0, ha="right" if turned else "center"
        )
    axes.yaxis.set_major_formatter(lambda value, _: _short(value))
    _legend(axes)
    return _png(figure)


def confusions(confusion: np.ndarray, names: Sequence[str]) -> bytes | None:
    """A matrix of the percent of each true class (row) that passed as each predicted one (column), up to 20 classes."""
    if confusion.sum() == 0 or len(names) > 20:
        return None
    shares = confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    figure, axes = _axes(TALL)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*shares.shape):
        share = shares[row, column]
        if share >= 0.005:
            text = f"{100 * share:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 0.55 else INK)
    axes.set_xticks(range(len(names)), names, parse_math=False, rotation=0 if max(map(len, names)) <= 4 else 45)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted", color=SOFT)
    axes.set_ylabel("true", color=SOFT)
    return _png(figure)


def recalls(recall: Sequence[float | None], labels: Sequence[int] | np.ndarray, names: Sequence[str]) -> bytes | None:
    """Bars of the share of each class's images that were recognised, and a line of its labels (logarithmic, to the
    right), the class with the most labels first; None if no class has an image.

    recall  of each class, None where it has no image
    labels  known labels of each class
    """
    order = [c for c in np.argsort(-np.asarray(labels), kind="stable") if recall[c] is not None]
    if not order:
        return None
    many, place = len(order) > 40, np.arange(len(order))
    figure, axes = _axes(WIDE)
    shares = [100 * (recall[c] or 0) for c in order]
    axes.bar(place, shares, color=COLOURS[0], width=1.0 if many else 0.72, label="recall")
    axes.axhline(float(np.mean(shares)), color=INK, lw=1, ls=(0, (4, 3)), label="balanced accuracy, the mean")
    axes.set_ylim(0, 105)
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    if many:
        axes.set_xlabel("classes, most labels first", color=SOFT)
    else:
        turned = max(len(names[c]) for c in order) > 4
        axes.set_xticks(
            place, [names[c] for c in order], parse_math=False, rotation=45 if turned else 0,
            ha="right" if turned else "center",
        )  # fmt: skip
    counts = axes.twinx()
    known = np.maximum(0.5, np.asarray(labels)[order])  # below the axis where there is none
    counts.plot(place, known, color=WRONG, lw=1.4, marker=None if many else "o", ms=4)
    counts.set_yscale("log")
    counts.set_ylim(bottom=0.8)
    counts.spines[["top", "left", "bottom"]].set_visible(False)
    counts.spines["right"].set_color(LINE)
    counts.tick_params(axis="y", which="both", colors=WRONG, labelsize=9, length=3)
    counts.yaxis.set_major_formatter(lambda value, _: _short(value))
    counts.set_ylabel("labels", color=WRONG)
    _legend(axes)
    return _png(figure)


def _axes(inches: tuple[float, float]) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import (
        FigureCanvasAgg,  # imported here, as it takes a second and is for reports alone
    )
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=180, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=SOFT, labelsize=9, length=3)
    axes.grid(axis="y", color=LINE, lw=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes: "Axes") -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=9, labelcolor=INK, handlelength=1.2,
        borderaxespad=0.2, columnspacing=1.2,
    )  # fmt: skip


def _steps(axes: "Axes") -> None:
    axes.set_xlabel("step", color=SOFT, fontsize=9)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))


def _logarithmic(axes: "Axes", factor: float) -> None:
    """Make the axis logarithmic, with marks at powers of ten, and at 2 and 5 times them if `factor` is below 1,000.

    factor  the largest value over the smallest
    """
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if factor < 1000 else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="y", which="minor", left=False, labelleft=False)


def _short(number: float) -> str:
    for size, name in ((1e6, "M"), (1e3, "k")):
        if number >= 10 * size or number == size:
            return f"{number / size:g}{name}"
    return f"{number:g}"


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    with catch_warnings():
        filterwarnings("ignore", r"Glyph \d+ .* missing from font")  # class names in any script; the tables show them
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
