"""A command's flags, by tyro: typed, and refused in one line."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial, wraps
from typing import Any

from pipeline.errors import InputError


def parse(kind: Any, **options: Any) -> Any:
    """`tyro.cli`. Raises InputError, in one line, for what tyro refuses."""
    import tyro  # here, because training imports modules whose commands it does not run

    with in_one_line():
        return tyro.cli(kind, **options)


def later(door: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """A function whose parameters are a command's flags, to be called when all of them are known to be right."""

    @wraps(door)
    def known(*args: Any, **named: Any) -> Callable[[], None]:
        return partial(door, *args, **named)

    return known


@contextmanager
def in_one_line() -> Iterator[None]:
    """What tyro refuses inside, in a box of several lines, becomes an InputError; what else it prints passes."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            yield
    except SystemExit as ended:
        if ended.code != 2:
            raise
        raise InputError(unboxed(said.getvalue())) from None
    sys.stderr.write(said.getvalue())


def unboxed(box: str) -> str:
    """The message at the top of tyro's box, what was expected or is similar, and where all flags are shown."""
    rows = [line.strip("│ ") for line in box.splitlines()[1:]]
    parts: list[list[str]] = [[]]  # between rules
    for row in rows:
        if row and not row.strip("─-╰╯"):
            parts.append([])
        elif row:
            parts[-1].append(row)
    message, *others = [part for part in parts if part] or [[box.strip()]]
    hints = [hint for help in others if (hint := _hint(help))]
    return "; ".join([" ".join(message).rstrip("."), *hints, "--help shows every flag"])


def _hint(part: list[str]) -> str:
    """What a part of the box below its message adds; nothing where it only says how to see the help."""
    if part[0].startswith("Available subcommands: "):
        return f"the first word is one of: {' '.join(part).partition(': ')[2]}"
    if len(part) == 1 or not part[0].endswith(":") or part[0].startswith("For full helptext"):
        return ""
    return f"expected {part[1]}" if part[0].startswith("Argument helptext") else f"did you mean {part[1].split()[0]}?"
