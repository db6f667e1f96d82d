"""metrics.jsonl: rows of losses and evaluations, and the latest score of each evaluation; imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from models.records.jsonl import read_lines
from pipeline.text import measured

FILE = "metrics.jsonl"


def read(folder: Path) -> list[dict]:
    """The rows of `folder`/metrics.jsonl in order of writing; see models.reporting.journal for their fields."""
    return read_lines(folder / FILE)


def latest_scores(rows: Sequence[dict]) -> dict[str, float | None]:
    """The latest value of each evaluation, by file and name, such as {"val top1": 0.95}; None if it was not finite."""
    found: dict[str, float | None] = {}
    for row in rows:
        found |= {f"{row['evaluation']} {name}": value for name, value in row.get("values", {}).items()}
    return found


def format_scores(scores: dict[str, float | None]) -> list[str]:
    """Scores as text, such as ["val top1 95.0 %"]; those that are None are skipped."""
    return [f"{name} {measured(name, value)}" for name, value in scores.items() if value is not None]
