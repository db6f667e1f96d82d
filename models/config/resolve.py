"""Resolve a command line, "semi_mae:digits --optim.lr 1e-3", to a recipe, and write the command line of a recipe."""

import importlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NoReturn

from models.config.bounds import AUTO, check
from models.config.catalogue import check_name, description, print_catalogue
from models.config.recipe import Encoder, Recipe
from models.config.sweep import member
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.text import did_you_mean


def answer_without_torch(arguments: Sequence[str]) -> None:
    """Print the catalogue if the arguments name no recipe, refuse a wrong name or flag, and end the process; or return.

    answer_without_torch(["semi_mea:digits"])  # error: no recipe is called 'semi_mea:digits'; did you mean ...

    Flags of the groups data, encoder, optim and run are checked by name. `resolve` checks everything else; it imports
    the method's file and with it torch, which takes seconds.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        command(print_catalogue)
    name, *flags = arguments
    shared = Recipe(method=None)
    groups = tuple(f"--{item.name}." for item in fields(shared) if is_dataclass(getattr(shared, item.name)))
    try:
        check_name(name)
        _check_flags(name, [flag for flag in flags if flag.startswith(groups)], shared)
    except InputError as error:
        _end_with(error)


def resolve(name: str, flags: list[str]) -> Recipe:
    """The recipe called `name` with typed flags over its fields.

    resolve("semi_mae:digits", ["--optim.lr", "1e-3"])

    Raises InputError, with the nearest name, for an unknown recipe or flag, for a value of the wrong type, and for
    numbers that `models.config.bounds` refuses.
    """
    recipe = named(name)
    _check_flags(name, flags, recipe)
    kind, prog = Recipe[type(recipe.method)], f"train.py {name}"  # ty: ignore[invalid-type-form] -- known as it runs
    recipe = parse(kind, default=recipe, args=flags, prog=prog, description=description(name))
    if recipe.encoder.name == AUTO:
        recipe = replace(recipe, encoder=_as_asked(recipe.encoder, flags))
    check(recipe)
    return recipe


def named(name: str) -> Recipe:
    """The recipe called `name`, without flags. Raises InputError with the nearest name if there is none."""
    if "/" in name:
        return member(name)
    check_name(name)
    method, _, function = name.partition(":")
    return replace(getattr(importlib.import_module(f"models.methods.{method}"), function)(), name=name)


def command_of(recipe: Recipe) -> str:
    """The shell command that trains this recipe again."""
    return shlex.join(["python", "train.py", recipe.name, *flags_of(recipe)])


def flags_of(recipe: Recipe) -> list[str]:
    """The flags that turn the recipe called `recipe.name` into this one, as `resolve` takes them."""
    return list(_changes(recipe, named(recipe.name)))


def _as_asked(encoder: Encoder, flags: Sequence[str]) -> Encoder:
    """An encoder named auto without the recipe's own size, for which the flags did not ask."""
    asked = {flag.split("=")[0].replace("_", "-") for flag in flags}
    return replace(encoder, **{name: None for name in ("width", "depth", "heads") if f"--encoder.{name}" not in asked})


def _end_with(error: InputError) -> NoReturn:
    def main() -> NoReturn:
        raise error

    command(main)


def _check_flags(name: str, flags: Sequence[str], recipe: Recipe) -> None:
    known = [flag for flag in _flags(recipe) if flag.startswith("--") and "." in flag]  # "name" is no flag
    for flag in flags:
        spelt = flag.split("=")[0].replace("_", "-")
        if flag.startswith("--") and spelt not in known and spelt != "--help":
            raise InputError(f"{name} has no field {spelt}{did_you_mean(spelt, known)}; add --help to see them all")


def _changes(part: Any, written: object, prefix: str = "--") -> Iterator[str]:
    for item in fields(part):
        name, value, before = item.name.replace("_", "-"), getattr(part, item.name), getattr(written, item.name)
        if is_dataclass(value):
            yield from _changes(value, before, f"{prefix}{name}.")
        elif value != before:
            yield f"{prefix}no-{name}" if value is False else f"{prefix}{name}"
            if not isinstance(value, bool):
                yield from map(str, value if isinstance(value, tuple) else (value,))


def _flags(part: Any, prefix: str = "--") -> Iterator[str]:
    for item in fields(part):
        name, value = item.name.replace("_", "-"), getattr(part, item.name)
        if is_dataclass(value):
            yield from _flags(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
            yield f"{prefix}no-{name}"
            head, _, last = f"{prefix}{name}".rpartition(".")
            yield f"{head}.no-{last}"
