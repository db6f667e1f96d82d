"""Sweeps: functions that yield recipes. "mae:digits_mask_ratio" is one; "mae:digits_mask_ratio/2" its third recipe."""

import importlib
import inspect
from collections.abc import Iterator
from typing import get_args, get_origin

from models.recipe import METHODS, Recipe
from pipeline.errors import InputError


def sweeps() -> Iterator[tuple[str, str]]:
    """Every sweep's name on the command line and the first line of its docstring."""
    for path in sorted(METHODS.glob("[!_]*.py")):
        module = importlib.import_module(f"models.methods.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and _yields_recipes(function):
                yield f"{path.stem}:{name}", inspect.getdoc(function).splitlines()[0]


def members(sweep: str) -> list[Recipe]:
    """The recipes of a sweep, named `sweep`/0, `sweep`/1 and so on; the order is the function's."""
    from dataclasses import replace

    method, _, function = sweep.partition(":")
    recipes = getattr(importlib.import_module(f"models.methods.{method}"), function)()
    return [replace(recipe, name=f"{sweep}/{index}") for index, recipe in enumerate(recipes)]


def member(name: str) -> Recipe:
    """One recipe of a sweep. Raises InputError if there is no such sweep, or it has fewer."""
    sweep, _, index = name.rpartition("/")
    known = [known for known, _ in sweeps()]
    if sweep not in known:
        raise InputError(f"no sweep is called {sweep!r}; there are {', '.join(known)}")
    found = members(sweep)
    if not (index.isdigit() and int(index) < len(found)):
        raise InputError(f"{sweep} has the members {sweep}/0 to {sweep}/{len(found) - 1}, got {name!r}")
    return found[int(index)]


def _yields_recipes(function: object) -> bool:
    returns = inspect.signature(function).return_annotation
    return get_origin(returns) is Iterator and get_origin(get_args(returns)[0]) is Recipe
