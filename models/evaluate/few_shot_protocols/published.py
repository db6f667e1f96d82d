"""What SupMAE's paper reports of 20 data sets of ELEVATER: means over the sets, with ViT-B, beside ours."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from models.evaluate.few_shot_protocols.table import ClassifierResult
from models.reporting.render import Block, Table, Text
from pipeline.elevater.catalogue import CATALOGUE
from pipeline.text import count, percent

SHOTS = 5, 20, 50
PAPER: Mapping[str, Mapping[str, Sequence[float]]] = {
    "linear": {"MAE": (33.37, 48.03, 58.26), "MoCo v3": (50.17, 61.99, 69.71), "SupMAE": (47.97, 60.86, 66.68)},
    "finetune": {"MAE": (36.10, 54.13, 65.86), "MoCo v3": (39.30, 58.75, 70.33), "SupMAE": (46.76, 64.61, 71.71)},
}
"""Percent, at 5, 20 and 50 shots; each set by its own metric of ELEVATER, the mean of three draws."""


def published(
    results: Sequence[ClassifierResult], mode: Literal["linear", "finetune"], names: Mapping[str, str], protocol: str
) -> list[Block]:
    """Make the table of the paper's means beside this run's mean over ELEVATER's sets; nothing where there is none.

    names  ELEVATER's name of each of its sets, by the name that `results` have; other sets are left out of the mean
    """
    if not names:
        return []
    ours = [each for each in results if each.set in names]
    found = {k: [each.value for each in ours if each.shots == k] for k in dict.fromkeys(each.shots for each in ours)}
    columns = [*SHOTS, *(k for k in found if k not in SHOTS)]
    shown = dict.fromkeys(columns, "-") | {k: percent(fmean(values), decimals=2) for k, values in found.items()}
    rows = [
        (name, *(f"{value:.2f} %" for value in values), *["-"] * (len(columns) - len(SHOTS)))
        for name, values in PAPER[mode].items()
    ]
    rows.append((f"this run, {count(len(names), 'set')}", *(shown[k] for k in columns)))
    absent = [name for name in CATALOGUE if name not in names.values()]
    lines = ["Means over ELEVATER's 20 sets in SupMAE's paper, ViT-B, and over this run's."]
    if absent:
        lines.append(f"Not comparable: {count(len(absent), 'set')} of the 20 not there: {', '.join(absent)}.")
    if protocol != "elevater":
        lines.append("The paper's are by ELEVATER's protocol, in which test selects the epoch: --protocol elevater.")
    return [*map(Text, lines), Table(("mean", *(f"{k} shots" for k in columns)), rows)]
