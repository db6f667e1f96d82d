"""What few-shot evaluation says: numbers for the journal, tables for the page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from models.reporting.render import Block, Table, Text
from pipeline.text import percent

SELECTED = {
    "shots": "Everything was selected by holding out a fifth of the shots: no label beyond the shots was used, and "
    "test was looked at once.",
    "val": "Everything was selected on val.beton, whose labels come on top of the shots; test was looked at once.",
}
ELEVATER = (
    "ELEVATER's protocol: the epoch that is reported was selected ON TEST, the best of 50. Compare it with numbers "
    "made in the same way only; --protocol honest does not look at test to select. The shots are not those that its "
    "toolkit draws."
)


@dataclass(frozen=True)
class Cell:
    """One classifier: of which set, from how many shots, by which draw; its metric on test, 0 to 1, what was chosen
    for it, and how long that took."""

    set: str
    shots: int
    seed: int
    value: float
    chosen: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def numbers(cells: Sequence[Cell]) -> dict[str, float]:
    """SET_KSHOT_mean and _std over the draws; over several sets all_KSHOT, where a draw counts with its mean over them.

    Of one draw there is no _std (of the sample: n - 1).
    """
    values: dict[str, float] = {}
    for name in _sets(cells):
        for shots in _shots(cells):
            found = _of(cells, name, shots)
            values[f"{name}_{shots}shot_mean"] = fmean(found)
            values |= {f"{name}_{shots}shot_std": stdev(found)} if len(found) > 1 else {}
    return values


def page(cells: Sequence[Cell], metrics: dict[str, str], remarks: Sequence[str], said: str) -> list[Block]:
    """How it was selected, the table of means and spreads, what is to be known, and every classifier."""
    shots = _shots(cells)
    rows = [(name, metrics.get(name, "mean"), *(percent(*_of(cells, name, k)) for k in shots)) for name in _sets(cells)]
    draws = len({cell.seed for cell in cells})
    head = f"Mean ± spread over {draws} draws of the shots." if draws > 1 else "Of one draw of the shots."
    each = [
        (cell.set, str(cell.shots), str(cell.seed), percent(cell.value), _named(cell.chosen), f"{cell.seconds:.1f}")
        for cell in cells
    ]
    table = Table(("data set", "metric", *(f"{k} shots" for k in shots)), rows)
    every = Table(("data set", "shots", "draw", "on test", "chosen", "seconds"), each)
    return [Text(said), Text(head), table, *(Text(startup_note) for startup_note in remarks), every]


def _sets(cells: Sequence[Cell]) -> list[str]:
    names = list(dict.fromkeys(cell.set for cell in cells))
    return [*names, "all"] if len(names) > 1 else names


def _shots(cells: Sequence[Cell]) -> list[int]:
    return list(dict.fromkeys(cell.shots for cell in cells))


def _of(cells: Sequence[Cell], name: str, shots: int) -> list[float]:
    """Values of each draw, in order; of "all", the mean over the sets."""
    found = [cell for cell in cells if cell.shots == shots]
    if name != "all":
        return [cell.value for cell in found if cell.set == name]
    draws = dict.fromkeys(cell.seed for cell in found)
    return [fmean(cell.value for cell in found if cell.seed == seed) for seed in draws]


def _named(chosen: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in chosen.items())
