"""Report few-shot evaluation: numbers for the log, tables for the page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from models.reporting.render import Block, Table, Text
from pipeline.text import percent

SELECTED = {
    "shots": "Everything was selected by holding out a fifth of the shots: no label beyond the shots was used, and "
    "test was evaluated once.",
    "val": "Everything was selected on val.beton, whose labels come on top of the shots; test was evaluated once.",
}
ELEVATER = (
    "ELEVATER's protocol: the epoch that is reported was selected ON TEST, the best of 50. Compare it with numbers "
    "made in the same way alone; --protocol held_out does not use test to select. The shots are not those that its "
    "toolkit draws."
)


@dataclass(frozen=True)
class ClassifierResult:
    """One classifier: its data set, number of shots and draw; its metric on test, 0 to 1; the settings that were
    selected for it; and the seconds that this took."""

    set: str
    shots: int
    seed: int
    value: float
    selected: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def numbers(results: Sequence[ClassifierResult]) -> dict[str, float]:
    """Return SET_KSHOT_mean and _std over the draws, and for several sets all_KSHOT, of each draw's mean over the sets.

    _std is the sample's (n - 1); one draw has none.
    """
    values: dict[str, float] = {}
    for name in _sets(results):
        for shots in _shots(results):
            found = _of(results, name, shots)
            values[f"{name}_{shots}shot_mean"] = fmean(found)
            values |= {f"{name}_{shots}shot_std": stdev(found)} if len(found) > 1 else {}
    return values


def page(
    results: Sequence[ClassifierResult], metrics: dict[str, str], remarks: Sequence[str], protocol: str
) -> list[Block]:
    """Show the protocol, the table of means and spreads, the remarks, and every classifier."""
    shots = _shots(results)
    rows = [
        (name, metrics.get(name, "mean"), *(percent(*_of(results, name, k)) for k in shots)) for name in _sets(results)
    ]
    draws = len({each.seed for each in results})
    head = f"Mean ± spread over {draws} draws of the shots." if draws > 1 else "Of one draw of the shots."
    lines = [
        (each.set, str(each.shots), str(each.seed), percent(each.value), _named(each.selected), f"{each.seconds:.1f}")
        for each in results
    ]
    table = Table(("data set", "metric", *(f"{k} shots" for k in shots)), rows)
    every = Table(("data set", "shots", "draw", "on test", "selected", "seconds"), lines)
    return [Text(protocol), Text(head), table, *map(Text, remarks), every]


def _sets(results: Sequence[ClassifierResult]) -> list[str]:
    names = list(dict.fromkeys(each.set for each in results))
    return [*names, "all"] if len(names) > 1 else names


def _shots(results: Sequence[ClassifierResult]) -> list[int]:
    return list(dict.fromkeys(each.shots for each in results))


def _of(results: Sequence[ClassifierResult], name: str, shots: int) -> list[float]:
    """Return the values of each draw, in order; for "all", the means over the sets."""
    found = [each for each in results if each.shots == shots]
    if name != "all":
        return [each.value for each in found if each.set == name]
    draws = dict.fromkeys(each.seed for each in found)
    return [fmean(each.value for each in found if each.seed == seed) for seed in draws]


def _named(selected: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in selected.items())
