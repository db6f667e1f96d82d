"""List the recipes and sweeps in models/methods under their names on the command line, such as "mae:digits".

The sources are parsed and not imported: importing a method imports torch and timm, which takes seconds.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from pipeline.errors import InputError
from pipeline.text import did_you_mean

METHODS = Path(__file__).parents[1] / "methods"
RECIPE, SWEEP = "Recipe[", "Iterator[Recipe["
"""How the return annotation begins of a function that returns one recipe, and of one that yields several."""
NOT_RUN = re.compile(r"  (?:Here: n|N)ot yet run(?: to its end)?\.")
"""End of a docstring's first line that the printed list shows as a star in front."""


def catalogue() -> Iterator[tuple[str, str]]:
    """Every recipe's name and the first line of its docstring."""
    return ((name, text.splitlines()[0]) for name, text in _functions(RECIPE))


def sweeps() -> Iterator[tuple[str, str]]:
    """Every sweep's name and the first line of its docstring."""
    return ((name, text.splitlines()[0]) for name, text in _functions(SWEEP))


def description(name: str) -> str | None:
    """The docstring of a recipe or of a sweep; "sweep/0" gives the sweep's. None where no function has this name."""
    return dict(_functions(RECIPE, SWEEP)).get(name.partition("/")[0])


def check_name(name: str) -> None:
    """Raise InputError, with the nearest name, unless `name` is a recipe's or "sweep/index" of a sweep.

    check_name("semi_mea:digits")  # no recipe is called 'semi_mea:digits'; did you mean semi_mae:digits?

    How many members the sweep has is not checked: that would import its file.
    """
    if name.startswith("-"):
        raise InputError(f"expected the name of a recipe before the flags, got {name}; `python train.py` lists them")
    recipes, known_sweeps = ([known for known, _ in _functions(kind)] for kind in (RECIPE, SWEEP))
    sweep, slash, index = name.rpartition("/")
    if slash and sweep in recipes:
        raise InputError(f"{sweep} is one recipe and no sweep; leave out /{index}")
    if slash and sweep not in known_sweeps:
        near = did_you_mean(sweep, recipes + known_sweeps)
        raise InputError(f"no sweep is called {sweep!r}{near}; `python train.py` lists them")
    if not slash and name in known_sweeps:
        raise InputError(f"{name} is a sweep; `python -m slurm.submit {name}` runs it, {name}/0 is its first recipe")
    if not slash and name not in recipes:
        near = did_you_mean(name, recipes + known_sweeps)
        raise InputError(f"no recipe is called {name!r}{near}; `python train.py` lists them")


def print_catalogue() -> None:
    """Print all recipes, a line each, then all sweeps, a line for those of one kind."""
    print("python train.py RECIPE [--group.field VALUE ...]   (RECIPE --help shows every field)\n")
    print("* not yet run here to its end; what came out of others: docs/results.md\n")
    _print_lines(catalogue())
    print("\npython -m slurm.submit SWEEP [-- --group.field VALUE ...]   (SWEEP/0 is the first of its recipes)\n")
    _print_lines(_by_kind(sweeps()))


Base = TypeVar("Base")


def own_class(module: ModuleType, base: type[Base]) -> type[Base]:
    """The one subclass of `base` that a module defines itself; subclasses that it imports are skipped."""
    classes = (each for each in vars(module).values() if isinstance(each, type) and issubclass(each, base))
    (found,) = (each for each in classes if each.__module__ == module.__name__)
    return found


def _by_kind(found: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Merge sweeps of a file that differ in the data or the number of labels into one line that names the others."""
    kinds: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, line in found:
        file, _, own = name.partition(":")
        kinds.setdefault((file, re.sub(r"^[^_]+_|\d+$", "", own)), []).append((own, line))
    for (file, _), ((first, line), *others) in kinds.items():
        also = ", ".join(("*" if NOT_RUN.search(text) else "") + own for own, text in others)
        yield f"{file}:{first}", f"{line}  Also: {also}" if others else line


def _print_lines(found: Iterable[tuple[str, str]]) -> None:
    for name, line in found:
        text, stars = NOT_RUN.subn("", line)
        print(f"{'*' if stars else ' '} {name:38s} {text}")


def _functions(*returns: str) -> Iterator[tuple[str, str]]:
    """Name and docstring of every public function in methods/ whose return annotation begins with one of `returns`."""
    for path in sorted(METHODS.glob("[!_]*.py")):
        for name, returned, text in _public_functions(path, path.stat().st_mtime_ns):
            if returned.startswith(returns):
                yield f"{path.stem}:{name}", text


@cache
def _public_functions(path: Path, mtime_ns: int) -> list[tuple[str, str, str]]:
    """Name, return annotation and docstring of each annotated public function of a file, which is parsed once."""
    functions = (each for each in ast.parse(path.read_text()).body if isinstance(each, ast.FunctionDef))
    return [
        (each.name, ast.unparse(each.returns), ast.get_docstring(each) or "")
        for each in functions
        if each.returns and not each.name.startswith("_")
    ]
