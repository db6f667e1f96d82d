"""Find a recipe by its name and change its fields by typed flags: "semi_mae:digits" --optim.lr 1e-3."""

import importlib
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

from models.config.bounds import check
from models.config.catalogue import catalogue, story, sweeps
from models.config.recipe import Recipe
from models.config.sweep import member
from pipeline.errors import InputError
from pipeline.flags import parse
from pipeline.text import did_you_mean


def resolve(name: str, flags: list[str]) -> Recipe:
    """The recipe called `name` ("semi_mae:digits") with typed flags over it ("--optim.lr", "1e-3").

    Raises InputError, with the nearest name, for an unknown recipe or flag, and for a value of the wrong type.
    """
    recipe = named(name)
    known = [flag for flag in _flags(recipe) if flag.startswith("--") and "." in flag]  # all but the name
    for flag in flags:
        spelt = flag.split("=")[0].replace("_", "-")
        if flag.startswith("--") and spelt not in known and spelt != "--help":
            raise InputError(f"{name} has no field {spelt}{did_you_mean(spelt, known)}; add --help to see them all")
    kind, prog = Recipe[type(recipe.method)], f"train.py {name}"
    recipe = parse(kind, default=recipe, args=flags, prog=prog, description=story(name))
    check(recipe)
    return recipe


def named(name: str) -> Recipe:
    """The recipe called `name`, as written. Raises InputError with the nearest name if there is none."""
    if "/" in name:
        return member(name)
    names = [known for known, _ in catalogue()]
    if name not in names:
        if name in (several := [known for known, _ in sweeps()]):
            raise InputError(
                f"{name} is a sweep; `python -m slurm.submit {name}` runs it, {name}/0 is its first recipe"
            )
        near = did_you_mean(name, names + several)
        raise InputError(f"no recipe is called {name!r}{near}; `python train.py` lists them")
    method, _, function = name.partition(":")
    return replace(getattr(importlib.import_module(f"models.methods.{method}"), function)(), name=name)


def command_of(recipe: Recipe) -> str:
    """What a shell would be told to train this recipe again."""
    return shlex.join(["python", "train.py", recipe.name, *flags_of(recipe)])


def flags_of(recipe: Recipe) -> list[str]:
    """The flags that make this recipe of the one of its name, as `resolve` takes them."""
    return list(_changes(recipe, named(recipe.name)))


def _changes(part: object, written: object, prefix: str = "--") -> Iterator[str]:
    for item in fields(part):
        name, value, before = item.name.replace("_", "-"), getattr(part, item.name), getattr(written, item.name)
        if is_dataclass(value):
            yield from _changes(value, before, f"{prefix}{name}.")
        elif value != before:
            yield f"{prefix}no-{name}" if value is False else f"{prefix}{name}"
            if not isinstance(value, bool):
                yield from map(str, value if isinstance(value, tuple) else (value,))


def _flags(part: object, prefix: str = "--") -> Iterator[str]:
    for item in fields(part):
        name, value = item.name.replace("_", "-"), getattr(part, item.name)
        if is_dataclass(value):
            yield from _flags(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
            yield f"{prefix}no-{name}"
            head, _, last = f"{prefix}{name}".rpartition(".")
            yield f"{head}.no-{last}"
