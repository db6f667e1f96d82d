"""Read the results of runs from their journals and recipes, without torch."""

import contextlib
import json
import sys
from pathlib import Path

from models.records import metrics
from models.records.json_file import read_object
from models.records.run_folder import RECIPE
from pipeline.errors import InputError

ALWAYS_DIFFER = "name", "run.folder"
"""Fields that are different in every member of a sweep."""


def rows(run: Path) -> list[dict]:
    """Read the rows of a run's journal; none where it cannot be read, and without damaged lines."""
    with contextlib.suppress(InputError):
        return metrics.read(run)
    return []


def last_step(run: Path) -> int:
    """Return the largest step of the journal, 0 without one."""
    return max((row["step"] for row in rows(run)), default=0)


def final(run: Path) -> dict[str, float | None]:
    """Return the latest loss and the latest value of each evaluation."""
    found = rows(run)
    losses = [row["loss"] for row in found if "loss" in row]
    return ({"loss": losses[-1]} if losses else {}) | metrics.latest_scores(found)


def differing(runs: list[Path]) -> list[dict[str, object]]:
    """Return for each run the fields of its recipe in which these runs differ."""
    recipes = [_recipe(run) for run in runs]
    names = list(dict.fromkeys(name for recipe in recipes for name in recipe))
    apart = [n for n in names if n not in ALWAYS_DIFFER and len({json.dumps(r.get(n)) for r in recipes if r}) > 1]
    return [{name: recipe.get(name) for name in apart} for recipe in recipes]


def _recipe(run: Path) -> dict[str, object]:
    """Fields of a run's recipe; none without one, or from a damaged one, which stderr names."""
    try:
        return dict(_flat(read_object(run / RECIPE, "its fields are left out", absent={})))
    except InputError as error:
        print(error, file=sys.stderr)
        return {}


def _flat(part: dict, prefix: str = ""):
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
