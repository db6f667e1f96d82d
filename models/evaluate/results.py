"""The numbers of runs: what the journal says of val and test, and what evaluators kept beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.evaluate.record import recorded

LOWER = "mse", "nll", "error", "mce", "hours", "cost", "loss", "train_gflops", "memory", "spread"
"""What the names of numbers hold of which less is better."""
COUNTS = "images", "known"
FILES = "val", "test"
LONG = 32  # characters of an evaluator and its flags that a table's head has room for
HOW = "device", "batch", "threads"
"""Flags that say how something was computed, not what."""


class Column(NamedTuple):
    """What was measured, and where: "val", "test", or an evaluator with the flags that matter; and a number's name."""

    where: str
    name: str


Numbers = dict[Column, float]


def journalled(rows: Sequence[dict]) -> Numbers:
    """The last evaluation of each file, from the rows of a journal."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.get("evaluation") and row["values"]:
            found[row["evaluation"]] = row["values"]
    return {Column(where, name): value for where, values in found.items() for name, value in values.items()}


def kept(folders: Sequence[Path]) -> list[Numbers]:
    """The latest measurement of each kind beside each run; flags are named in which measurements differ."""
    rows = [[(row, flat(row["flags"])) for row in recorded(folder)] for folder in folders]
    several = differing([(row["evaluator"], flags) for held in rows for row, flags in held])
    found: list[Numbers] = []
    for held in rows:
        numbers: Numbers = {}
        for row, flags in held:
            said = [
                f"{name}={flags[name]}" for name in several[row["evaluator"]] if flags.get(name) not in (None, "[]")
            ]
            where = " ".join([row["evaluator"], *said])
            numbers |= {Column(where, name): value for name, value in row["values"].items() if name not in COUNTS}
        found.append(numbers)
    return found


def flat(flags: dict[str, Any], prefix: str = "") -> dict[str, str | None]:
    """Flags by their names on the command line, as text, without those that say HOW."""
    found: dict[str, str | None] = {}
    for name, value in flags.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif name not in HOW:
            found[f"{prefix}{name}"] = None if value is None else value if isinstance(value, str) else json.dumps(value)
    return found


def differing(measured: Sequence[tuple[str, dict[str, str | None]]]) -> dict[str, list[str]]:
    """For each evaluator, the flags that do not have one and the same value in all its measurements."""
    values: dict[str, dict[str, set[str | None]]] = {}
    for evaluator, flags in measured:
        for name, value in flags.items():
            values.setdefault(evaluator, {}).setdefault(name, set()).add(value)
        values.setdefault(evaluator, {})
    return {each: [name for name, held in flags.items() if len(held) > 1] for each, flags in values.items()}


def columns_of(runs: Sequence[Numbers], every: bool = True) -> list[Column]:
    """The numbers that any run has, those of one place together: all of them, or the first of each evaluator's."""
    places: dict[str, list[Column]] = {}
    for column in dict.fromkeys(column for numbers in runs for column in numbers):
        places.setdefault(column.where, []).append(column)
    return [column for where, held in places.items() for column in (held if every or where in FILES else held[:1])]


def best(column: Column, values: Sequence[float | None], data: Sequence[str]) -> set[int]:
    """Which of a column's values are the best on their data, None where there is none; of a lone one nothing can be
    said."""
    lower, winners = any(each in column.name for each in LOWER), set()
    for one in set(data):
        known = {i: value for i, value in enumerate(values) if value is not None and data[i] == one}
        if len(known) > 1:
            winner = min(known.values()) if lower else max(known.values())
            winners |= {i for i, value in known.items() if value == winner}
    return winners


def heads_of(columns: Sequence[Column]) -> tuple[list[str], list[str]]:
    """What stands above the columns, and footnotes for the flags that are too long to."""
    long = [where for where in dict.fromkeys(column.where for column in columns) if len(where) > LONG]
    number = {where: i for i, where in enumerate(long, 1)}
    heads = []
    for where, name in columns:
        short = f"{where.partition(' ')[0]} {name} ({number.get(where)})"
        heads.append(short if where in number else f"{where} {name}")
    return heads, [f"({i}) {where}" for where, i in number.items()]
