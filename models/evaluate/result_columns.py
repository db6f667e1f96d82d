"""Collect the numbers of runs as columns of a table: the journal's evaluations of val and test, and the evaluators'."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.evaluate.evaluation_log import read_evaluations
from models.records import events
from models.records.metrics import read
from models.records.run_folder import LAST

LOWER = "mse", "nll", "error", "mce", "hours", "seconds", "cost", "loss", "train_gflops", "memory", "spread"
"""What the names of numbers hold of which less is better."""
COUNTS = "images", "known", "unlabelled", "width"
OF_PAIRS = "_against", "_difference", "_images_only", "_mcnemar"
"""What the names of numbers hold that tell of two runs, so that they are none of one run's."""
FILES = "val", "test"
LONG = 32  # characters of an evaluator and its flags that fit into a table's head
EXECUTION = "device", "batch", "threads", "against"
"""Flags that change how something is computed, or what else, but not the numbers of the run itself."""


class Column(NamedTuple):
    """One number: where it was measured ("val", "test", or an evaluator and the flags that differ), and its name."""

    where: str
    name: str


Numbers = dict[Column, float]


def last_evaluations(rows: Sequence[dict]) -> Numbers:
    """Return the numbers of the last evaluation of each file, from the rows of a journal; what had none, as the average
    precision of a size without an object, is left out."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.get("evaluation") and row["values"]:
            found[row["evaluation"]] = row["values"]
    each = [(Column(where, name), value) for where, values in found.items() for name, value in values.items()]
    return {column: value for column, value in each if value is not None}


def recorded_evaluations(folders: Sequence[Path]) -> list[Numbers]:
    """Return the latest numbers of each evaluator beside each run; flags in which measurements differ are named, and so
    are a checkpoint other than the run's last and the step of a last one that the run has left behind since."""
    rows = [[(row, flat(row["flags"])) for row in read_evaluations(folder)] for folder in folders]
    several = differing([(row["evaluator"], flags) for held in rows for row, flags in held])
    found: list[Numbers] = []
    for folder, held in zip(folders, rows, strict=True):
        numbers: Numbers = {}
        done = max((row["step"] for row in read(folder)), default=None) if held else None
        began = max((row["time"] for row in events.read(folder) if row["event"] == "started"), default=0) if held else 0
        for row, flags in held:
            named = [
                f"{name}={flags[name]}" for name in several[row["evaluator"]] if flags.get(name) not in (None, "[]")
            ]
            where = " ".join([row["evaluator"], *named, *_of_other_weights(row, done, began)])
            numbers |= {Column(where, name): value for name, value in row["values"].items() if of_one_run(name)}
        found.append(numbers)
    return found


def _of_other_weights(row: dict, done: int | None, began: float) -> list[str]:
    """Name the checkpoint or the step of a measurement, unless it is of the run's last step, `done`, or that is not
    known; or say that it is older than the run, which began in the folder of another."""
    if row.get("time", began) < began:
        return ["before this run"]
    if row.get("checkpoint", LAST) != LAST:
        return [str(row["checkpoint"])]
    return [f"step={row['step']}"] if done is not None and row.get("step", done) != done else []


def of_one_run(name: str) -> bool:
    """Say whether a number of this name tells of one run: no count of images, and nothing that compares two."""
    return name not in COUNTS and not any(each in name for each in OF_PAIRS)


def flat(flags: dict[str, Any], prefix: str = "") -> dict[str, str | None]:
    """Return flags as text by their names on the command line, without those of EXECUTION."""
    found: dict[str, str | None] = {}
    for name, value in flags.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif name not in EXECUTION:
            found[f"{prefix}{name}"] = None if value is None else value if isinstance(value, str) else json.dumps(value)
    return found


def differing(measured: Sequence[tuple[str, dict[str, str | None]]]) -> dict[str, list[str]]:
    """Return for each evaluator the flags that do not have one and the same value in all its measurements."""
    values: dict[str, dict[str, set[str | None]]] = {}
    for evaluator, flags in measured:
        for name, value in flags.items():
            values.setdefault(evaluator, {}).setdefault(name, set()).add(value)
        values.setdefault(evaluator, {})
    return {each: [name for name, held in flags.items() if len(held) > 1] for each, flags in values.items()}


def columns_of(runs: Sequence[Numbers], every: bool = True) -> list[Column]:
    """List the numbers that any run has, grouped by where: all of them, or the first of each evaluator's."""
    places: dict[str, list[Column]] = {}
    for column in dict.fromkeys(column for numbers in runs for column in numbers):
        places.setdefault(column.where, []).append(column)
    return [column for where, held in places.items() for column in (held if every or where in FILES else held[:1])]


def best(column: Column, values: Sequence[float | None], data: Sequence[str]) -> set[int]:
    """Return the places of a column's values that are the best on their data; a value without another on the same data
    is not marked.

    values  None where a run has no number
    """
    lower, winners = any(each in column.name for each in LOWER), set()
    for one in set(data):
        known = {i: value for i, value in enumerate(values) if value is not None and data[i] == one}
        if len(known) > 1:
            winner = min(known.values()) if lower else max(known.values())
            winners |= {i for i, value in known.items() if value == winner}
    return winners


def heads_of(columns: Sequence[Column]) -> tuple[list[str], list[str]]:
    """Return the heads of the columns, and footnotes for evaluators whose flags are too long for a head."""
    long = [where for where in dict.fromkeys(column.where for column in columns) if len(where) > LONG]
    number = {where: i for i, where in enumerate(long, 1)}
    heads = []
    for where, name in columns:
        short = f"{where.partition(' ')[0]} {name} ({number.get(where)})"
        heads.append(short if where in number else f"{where} {name}")
    return heads, [f"({i}) {where}" for where, i in number.items()]
