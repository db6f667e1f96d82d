"""Resolve a command line, "semi_mae:digits --optim.lr 1e-3", to a recipe, and write the command line of a recipe."""

import importlib
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from typing import Annotated, Any, NoReturn, get_type_hints

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
    recipe = _parsed(recipe, name, flags)
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


def _parsed(recipe: Recipe, name: str, flags: list[str]) -> Recipe:
    """The recipe with its flags parsed. tyro is shown only the fields that they name, which takes a seventh of the time
    of all. Help, and what it refuses, it is asked with all, whose docstrings it then quotes."""
    if not flags:
        return recipe
    prog = f"train.py {name}"
    if {"-h", "--help"}.isdisjoint(flags):
        few = _only(recipe, {_spelt(flag) for flag in flags if flag.startswith("--")})
        with suppress(InputError):
            return _over(recipe, parse(type(few), default=few, args=flags, prog=prog))
    kind = Recipe[type(recipe.method)]  # ty: ignore[invalid-type-form] -- known as it runs
    return parse(kind, default=recipe, args=flags, prog=prog, description=description(name))


def _only(part: Any, asked: set[str], prefix: str = "--") -> Any:
    """A dataclass of the fields of a part, and of the parts in it, whose flags are asked for, with their values."""
    from tyro.conf import arg  # late, as listing recipes does not need it

    hints, kept = get_type_hints(type(part), include_extras=True), []
    for item in fields(part):
        flag, value = f"{prefix}{item.name.replace('_', '-')}", getattr(part, item.name)
        if is_dataclass(value) and any(other.startswith(f"{flag}.") for other in asked):
            inner = _only(value, asked, f"{flag}.")
            made, no_help = type(inner), arg(help="")  # else tyro would look for the source of this class
            kept.append((item.name, Annotated[made, no_help], field(default=inner)))  # ty: ignore[invalid-type-form]
        elif not asked.isdisjoint(_spellings(flag)):
            kept.append((item.name, hints[item.name], field(default=value)))
    return make_dataclass(type(part).__name__, kept, frozen=True)()


def _over(part: Any, few: Any) -> Any:
    """A part with the values of those of its fields that `_only` kept."""
    given = {item.name: getattr(few, item.name) for item in fields(few)}
    return replace(part, **{name: _over(getattr(part, name), value) if is_dataclass(value) else value
                            for name, value in given.items()})  # fmt: skip


def _as_asked(encoder: Encoder, flags: Sequence[str]) -> Encoder:
    """An encoder named auto without the recipe's own size, for which the flags did not ask."""
    asked = {_spelt(flag) for flag in flags}
    return replace(encoder, **{name: None for name in ("width", "depth", "heads") if f"--encoder.{name}" not in asked})


def _end_with(error: InputError) -> NoReturn:
    def main() -> NoReturn:
        raise error

    command(main)


def _check_flags(name: str, flags: Sequence[str], recipe: Recipe) -> None:
    known = [flag for flag in _flags(recipe) if flag.startswith("--") and "." in flag]  # "name" is no flag
    for flag in flags:
        spelt = _spelt(flag)
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
            yield from _spellings(f"{prefix}{name}")


def _spellings(flag: str) -> tuple[str, str]:
    """A flag, and how it is written where a field is set to False."""
    head, _, last = flag.rpartition(".")
    return flag, f"{head}.no-{last}"


def _spelt(word: str) -> str:
    """A word of the command line as a flag is spelt, without what is given to it."""
    return word.split("=")[0].replace("_", "-")
