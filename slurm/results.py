"""What runs have written about themselves, read without torch."""

import contextlib
import json
from pathlib import Path

from models.records import metrics
from models.records.run_folder import RECIPE

APART = "name", "run.folder"
"""Fields in which the members of a sweep differ anyhow."""


def rows(run: Path) -> list[dict]:
    """The journal; a line torn by a kill is left out."""
    with contextlib.suppress(OSError):
        return metrics.read(run)
    return []


def last_step(run: Path) -> int:
    """The step of the journal's last line, 0 without one."""
    return max((row["step"] for row in rows(run)), default=0)


def final(run: Path) -> dict[str, float | None]:
    """The latest loss and the latest value of each evaluation."""
    found = rows(run)
    losses = [row["loss"] for row in found if "loss" in row]
    return ({"loss": losses[-1]} if losses else {}) | metrics.latest_scores(found)


def differing(runs: list[Path]) -> list[dict[str, object]]:
    """For each run, the recipe's fields in which these runs differ."""
    recipes = [_recipe(run) for run in runs]
    names = list(dict.fromkeys(name for recipe in recipes for name in recipe))
    apart = [n for n in names if n not in APART and len({json.dumps(r.get(n)) for r in recipes if r}) > 1]
    return [{name: recipe.get(name) for name in apart} for recipe in recipes]


def _recipe(run: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return dict(_flat(json.loads((run / RECIPE).read_text())))
    return {}


def _flat(part: dict, prefix: str = ""):
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
