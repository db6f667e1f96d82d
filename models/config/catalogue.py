"""What there is in methods/, by its name on the command line, and the list of it.

Read from the sources: importing the methods brings in torch and timm, which take seconds.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

METHODS = Path(__file__).parents[1] / "methods"
RECIPE, SWEEP = "Recipe[", "Iterator[Recipe["
"""How the annotations begin of functions that return a recipe, and of those that yield several."""
NOT_RUN = re.compile(r"  (?:Here: n|N)ot yet run(?: to its end)?\.")
"""What the list says by a star."""


def catalogue() -> Iterator[tuple[str, str]]:
    """Every recipe's name and the first line of its docstring."""
    return ((name, said.splitlines()[0]) for name, said in _defined(RECIPE))


def sweeps() -> Iterator[tuple[str, str]]:
    """Every sweep's name and the first line of its docstring."""
    return ((name, said.splitlines()[0]) for name, said in _defined(SWEEP))


def story(name: str) -> str | None:
    """The docstring of a recipe, of a sweep or, for one of its members, of that; None where there is no such name."""
    return dict(_defined(RECIPE, SWEEP)).get(name.partition("/")[0])


def own_class(module: ModuleType, base: type) -> type:
    """The one subclass of `base` that a file defines: not those that it imports."""
    classes = (each for each in vars(module).values() if isinstance(each, type) and issubclass(each, base))
    (found,) = (each for each in classes if each.__module__ == module.__name__)
    return found


def list_if_asked() -> None:
    """End the process with a list of the recipes and the sweeps, if its command line names none."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("python train.py RECIPE [--group.field VALUE ...]   (RECIPE --help shows every field)\n")
        print("* not yet run here to its end; what came out of others: docs/results.md\n")
        _list(catalogue())
        print("\npython -m slurm.submit SWEEP [-- --group.field VALUE ...]   (SWEEP/0 is the first of its recipes)\n")
        _list(_kinds(sweeps()))
        sys.exit(0)


def _kinds(found: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Sweeps that do the same on other data, or with another number of labels, as one, which names the others."""
    kinds: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, line in found:
        file, _, own = name.partition(":")
        kinds.setdefault((file, re.sub(r"^[^_]+_|\d+$", "", own)), []).append((own, line))
    for (file, _), ((first, line), *others) in kinds.items():
        also = ", ".join(("*" if NOT_RUN.search(said) else "") + own for own, said in others)
        yield f"{file}:{first}", f"{line}  Also: {also}" if others else line


def _list(found: Iterable[tuple[str, str]]) -> None:
    for name, line in found:
        said, stars = NOT_RUN.subn("", line)
        print(f"{'*' if stars else ' '} {name:38s} {said}")


def _defined(*returns: str) -> Iterator[tuple[str, str]]:
    """Name and docstring of every function in methods/ whose annotation begins so."""
    for path in sorted(METHODS.glob("[!_]*.py")):
        for each in ast.parse(path.read_text()).body:
            public = isinstance(each, ast.FunctionDef) and not each.name.startswith("_")
            if public and each.returns and ast.unparse(each.returns).startswith(returns):
                yield f"{path.stem}:{each.name}", ast.get_docstring(each)
