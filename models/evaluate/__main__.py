"""Measure a trained run.  python -m models.evaluate NAME RUN [--data.root FOLDER] [FLAGS]; without NAME: the list."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from models.config.catalogue import own_class
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.text import did_you_mean

if TYPE_CHECKING:
    from models.evaluate.evaluator import Evaluator

HERE = Path(__file__).parent


def evaluators() -> Iterator[tuple[str, str]]:
    """List the name and first docstring line of every file of this folder with an Evaluator, read from the sources."""
    for path in sorted(HERE.glob("[!_]*.py")):
        for each in ast.parse(path.read_text()).body:
            if isinstance(each, ast.ClassDef) and any(ast.unparse(base) == "Evaluator" for base in each.bases):
                yield path.stem, (ast.get_docstring(each) or each.name).splitlines()[0]


def main() -> None:
    """Run the evaluator that the command line names, print its numbers, and keep them beside the run."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("python -m models.evaluate NAME RUN [FLAGS]   (NAME RUN --help shows every flag)\n")
        print("\n".join(f"  {name:14s} {line}" for name, line in evaluators()))
        print("\npython -m models.evaluate.compare RUN...   puts runs into one table")
        return
    name, known = sys.argv[1], [known for known, _ in evaluators()]
    if name not in known:
        near = did_you_mean(name, known) or f", there are {', '.join(known)}"
        raise InputError(f"no evaluator is called {name!r}{near}")
    if len(sys.argv) < 3 or (sys.argv[2].startswith("-") and sys.argv[2] not in ("-h", "--help")):
        raise InputError(f"expected a run folder or checkpoint: python -m models.evaluate {name} RUN [FLAGS]")
    measure(name, sys.argv[2], sys.argv[3:] if not sys.argv[2].startswith("-") else sys.argv[2:])


def evaluator_of(name: str, flags: list[str]) -> "Evaluator":
    """Build an evaluator from its flags; torch is imported here. Ends the process, or raises InputError, for wrong
    ones."""
    from models.evaluate.evaluator import Evaluator

    kind = own_class(importlib.import_module(f"models.evaluate.{name}"), Evaluator)
    return parse(kind, args=flags, prog=f"python -m models.evaluate {name} RUN")


def measure(name: str, path: str, flags: list[str]) -> None:
    """Run one evaluator on a run folder or checkpoint; torch is imported here, so that errors before come at once."""
    from models.evaluate.evaluation_log import FILE, append_evaluation
    from pipeline.store.atomic_write import check_writable
    from pipeline.text import measured

    evaluator = evaluator_of(name, flags)
    loaded = evaluator.load(Path(path))
    if loaded.note:
        print(loaded.note)
    check_writable(loaded.path.parent / FILE, "results are kept beside the run:")
    result = evaluator.run(loaded)
    page = append_evaluation(loaded, name, evaluator, result)
    width = max(24, *map(len, result.values))
    listed = "".join(f"{key:{width}s} {measured(key, value)}\n" for key, value in result.values.items())
    print(listed if result.text is None else result.text, end="")
    print(f"page: {page}")


if __name__ == "__main__":
    command(main)
