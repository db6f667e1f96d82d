"""The list of recipes: complete, and there at once."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import get_origin, get_type_hints

from models.recipe import METHODS, Recipe, catalogue

ROOT = Path(__file__).parents[2]


def test_the_catalogue_holds_each_function_that_returns_a_recipe_and_no_other() -> None:
    expected = {}
    for name in sorted(path.stem for path in METHODS.glob("*.py") if path.stem != "__init__"):
        for key, value in vars(importlib.import_module(f"models.methods.{name}")).items():
            own = callable(value) and getattr(value, "__module__", "") == f"models.methods.{name}"
            if own and not isinstance(value, type) and get_origin(get_type_hints(value).get("return")) is Recipe:
                expected[f"{name}:{key}"] = value.__doc__.strip().splitlines()[0]
    assert len(expected) > 10
    assert dict(catalogue()) == expected


def test_recipes_are_listed_without_importing_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "train.py"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name, _ in catalogue())
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "models.recipe" in imported
    assert not imported & {"torch", "numpy", "timm", "numba", "tyro"}
