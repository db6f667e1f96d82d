"""Compare two runs on the same images: how often one alone is right, the difference, and McNemar's exact test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from models.evaluate.evaluator import Evaluator
from models.evaluate.intervals import LEVEL, Pairs, difference, difference_interval, mcnemar
from models.load import Loaded
from models.reporting.render import Block, Table, Text
from pipeline.errors import InputError
from pipeline.store.beton import Beton
from pipeline.text import number, percent, points


class Compared(NamedTuple):
    """What was compared, such as top1, and how often each of the two runs was right."""

    name: str
    pairs: Pairs


class Other(NamedTuple):
    """The run to compare with, and the file on which both are measured."""

    run: Loaded
    beton: Beton


def open_other(evaluator: Evaluator, loaded: Loaded, against: str | None, *, same_classes: bool = True) -> Other | None:
    """Load the run that `against` names, and open the file of both; None where it names none.

    Raises InputError if it is no run, or the same checkpoint, or is measured on other images: the files of the two must
    hold the same pixels and labels in the same order, by their digests.
    """
    if against is None:
        return None
    other = evaluator.load(Path(against))
    if other.path.resolve() == loaded.path.resolve():
        raise InputError(f"--against {against} is the run itself, {loaded.path}; give another run or checkpoint")
    if other.note:
        print(other.note)
    ours, theirs = (evaluator.open(each, same_classes=same_classes) for each in (loaded, other))
    if ours.digest != theirs.digest:
        raise InputError(
            f"{ours.path} ({ours.n:,} images) and {theirs.path} ({theirs.n:,}), on which {other.path} is measured, are "
            "different files, and a paired comparison needs the same images; name one file for both by --data.root "
            "and --data.file"
        )
    return Other(other, ours)


def paired(
    loaded: Loaded, other: Other, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> tuple[dict[str, float], list[Block]]:
    """Compare what two runs got right, bool [N] by name, such as top1: numbers for the log and blocks for the page.

    A name that one of the two does not have is left out.
    """
    found = [compared(name, hits, theirs[name]) for name, hits in ours.items() if name in theirs]
    values = {name: value for each in found for name, value in numbers(each).items()}
    return values, page(found, loaded, other)


def compared(name: str, ours: Tensor, theirs: Tensor) -> Compared:
    """Count the images, bool [N] each, on which both runs are right, either alone, and neither."""
    counts = (ours & theirs, ours & ~theirs, ~ours & theirs, ~ours & ~theirs)
    return Compared(name, Pairs(*(int(each.sum()) for each in counts)))


def numbers(found: Compared) -> dict[str, float]:
    """Return the other run's accuracy, the difference with its interval, the counts of images on which one run alone is
    right, and the p-value, each under its name behind that of what was compared."""
    name, pairs = found
    low, high = difference_interval(pairs)
    values = {
        "against": (pairs.both + pairs.second) / sum(pairs),
        "difference": difference(pairs),
        "difference_low": low,
        "difference_high": high,
        "images_only_this": float(pairs.first),
        "images_only_against": float(pairs.second),
        "mcnemar_p": mcnemar(pairs.first, pairs.second),
    }
    return {f"{name}_{each}": value for each, value in values.items()}


def page(found: Sequence[Compared], loaded: Loaded, other: Other) -> list[Block]:
    """Show each comparison as a line of a table, and say how to read it."""
    interval = f"{percent(LEVEL, decimals=0)} interval"
    head = ("compared", "this run", "the other", "difference", interval, "right: this alone", "the other alone",
            "both", "neither", "McNemar's p")  # fmt: skip
    rows = []
    for name, pairs in found:
        shares = [percent((pairs.both + alone) / sum(pairs)) for alone in (pairs.first, pairs.second)]
        low, high = (points(end) for end in difference_interval(pairs))
        counts = [f"{each:,}" for each in (pairs.first, pairs.second, pairs.both, pairs.neither)]
        p = number(mcnemar(pairs.first, pairs.second))
        rows.append((name, *shares, points(difference(pairs)), f"{low} to {high}", *counts, p))
    how = (
        f"{loaded.path} against {other.run.path} on the same images of {other.beton.path}. The interval is Newcombe's "
        "for paired shares (1998, method 10). p is that of McNemar's exact test: the probability that the counts of "
        "images with one run alone right differ as much or more, were each such image a fair coin's. A small p tells "
        "these two runs apart; whether a method is better, several seeds tell (models.evaluate.compare --together)."
    )
    return [Text(how), Table(head, rows)]
