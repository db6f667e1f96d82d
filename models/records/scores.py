"""What a run came to, from the rows of its journal. The standard library only."""

from collections.abc import Sequence

from pipeline.text import measured


def scores(rows: Sequence[dict]) -> dict[str, float | None]:
    """The latest value of each evaluation, by its file and name: {"val top1": 0.95}; None where it was not finite."""
    found: dict[str, float | None] = {}
    for row in rows:
        found |= {f"{row['evaluation']} {name}": value for name, value in row.get("values", {}).items()}
    return found


def said(found: dict[str, float | None]) -> list[str]:
    """Scores in words."""
    return [f"{name} {measured(name, value)}" for name, value in found.items() if value is not None]
