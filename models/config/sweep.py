"""Sweeps: functions that yield recipes. "mae:digits_mask_ratio" is one; "mae:digits_mask_ratio/2" its third recipe."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TypeVar

from models.config.catalogue import sweeps
from models.config.recipe import Recipe
from pipeline.errors import InputError
from pipeline.text import did_you_mean

Part = TypeVar("Part")


def along(recipe: Part, field: str, values: Sequence[object]) -> Iterator[Part]:
    """The recipe with one field, by its dotted name, at each of these values."""
    for value in values:
        yield changed(recipe, {field: value})


def changed(recipe: Part, fields: dict[str, object]) -> Part:
    """A copy of the recipe with these fields, by their names on the command line: {"data.mask.ratio": 0.5}."""
    for name, value in fields.items():
        first, _, others = name.partition(".")
        value = changed(getattr(recipe, first), {others: value}) if others else value
        recipe = replace(recipe, **{first: value})
    return recipe


def members(sweep: str) -> list[Recipe]:
    """The recipes of a sweep, named `sweep`/0, `sweep`/1 and so on; the order is the function's."""
    method, _, function = sweep.partition(":")
    recipes = getattr(importlib.import_module(f"models.methods.{method}"), function)()
    return [replace(recipe, name=f"{sweep}/{index}") for index, recipe in enumerate(recipes)]


def check_apart(recipes: Sequence[Recipe]) -> None:
    """Raise InputError if two members of a sweep are one and the same run: flags set what the sweep varies."""
    for one, other in combinations(recipes, 2):
        if replace(one, name="") == replace(other, name=""):
            raise InputError(
                f"{one.name} and {other.name} are the same run with these flags; leave out what the sweep itself varies"
            )


def member(name: str) -> Recipe:
    """One recipe of a sweep. Raises InputError if there is no such sweep, or it has fewer."""
    sweep, _, index = name.rpartition("/")
    known = [known for known, _ in sweeps()]
    if sweep not in known:
        raise InputError(f"no sweep is called {sweep!r}{did_you_mean(sweep, known)}; `python train.py` lists them")
    found = members(sweep)
    if not (index.isdigit() and int(index) < len(found)):
        raise InputError(f"{sweep} has the members {sweep}/0 to {sweep}/{len(found) - 1}, got {name!r}")
    return found[int(index)]
