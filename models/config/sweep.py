"""Sweeps: functions in models/methods that yield recipes. "mae:digits_mask_ratio/2" is the third recipe of one."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, TypeVar

from models.config.catalogue import check_name
from models.config.recipe import Recipe
from pipeline.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Part = TypeVar("Part", bound="DataclassInstance")


def along(recipe: Part, field: str, values: Sequence[object]) -> Iterator[Part]:
    """Yield copies of the recipe in which one field, given by its dotted name, has each of the values in turn.

    along(recipe, "data.mask.ratio", (0.5, 0.75))
    """
    for value in values:
        yield changed(recipe, {field: value})


def changed(recipe: Part, fields: Mapping[str, object]) -> Part:
    """A copy of the recipe in which these fields, given by their dotted names, have new values.

    changed(recipe, {"data.mask.ratio": 0.5})

    Raises AttributeError or TypeError for a field that does not exist.
    """
    for name, value in fields.items():
        first, _, others = name.partition(".")
        value = changed(getattr(recipe, first), {others: value}) if others else value
        recipe = replace(recipe, **{first: value})
    return recipe


def members(sweep: str) -> list[Recipe]:
    """The recipes of a sweep in the order in which its function yields them, named `sweep`/0, `sweep`/1 and so on."""
    method, _, function = sweep.partition(":")
    recipes = getattr(importlib.import_module(f"models.methods.{method}"), function)()
    return [replace(recipe, name=f"{sweep}/{index}") for index, recipe in enumerate(recipes)]


def check_apart(recipes: Sequence[Recipe]) -> None:
    """Raise InputError if two members of a sweep are the same run: flags have set the field that the sweep varies."""
    for one, other in combinations(recipes, 2):
        if replace(one, name="") == replace(other, name=""):
            raise InputError(
                f"{one.name} and {other.name} are the same run with these flags; leave out what the sweep itself varies"
            )


def member(name: str) -> Recipe:
    """The recipe "sweep/index". Raises InputError if there is no such sweep, or if it has fewer members."""
    check_name(name)
    sweep, _, index = name.rpartition("/")
    found = members(sweep)
    if not (index.isdigit() and int(index) < len(found)):
        raise InputError(f"{sweep} has the members {sweep}/0 to {sweep}/{len(found) - 1}, got {name!r}")
    return found[int(index)]
