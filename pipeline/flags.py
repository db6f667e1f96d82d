"""Parse the flags of a command: typed by tyro, bounded by their fields' annotations, and refused in one line.

@dataclass(frozen=True)
class Options:
    threads: Annotated[int | None, AT_LEAST_1] = None

options = parse(Options, prog="python -m pipeline.bench")
check_bounds(options)     # raises InputError("threads is 0, expected at least 1")
"""

import ast
import io
import math
import re
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial, wraps
from typing import Any, NamedTuple, final, get_type_hints

from pipeline.errors import InputError


@final
@dataclass(frozen=True)
class Bound:
    """The range in which a number, or each number of a tuple, must lie; stands in the annotation of its field."""

    expected: str
    holds: Callable[[float], bool]


NO_TYPE = re.compile(r"Error parsing (--\S+): no type matching .* could be instantiated from (\[.*\])$")
"""How tyro says that none of a field's types takes what was given; of which it gives the words as a list."""
AT_LEAST_1 = Bound("at least 1", lambda value: value >= 1)
AT_LEAST_2 = Bound("at least 2", lambda value: value >= 2)
POSITIVE = Bound("above 0", lambda value: value > 0)
NOT_NEGATIVE = Bound("0 or above", lambda value: value >= 0)
BELOW_1 = Bound("from 0 to below 1", lambda value: 0 <= value < 1)
SHARE = Bound("from 0 to 1", lambda value: 0 <= value <= 1)
BETWEEN_0_AND_1 = Bound("between 0 and 1", lambda value: 0 < value < 1)


class Number(NamedTuple):
    """A field that holds numbers: its dotted name, its number or numbers, and its bound if it has one."""

    name: str
    values: tuple[float, ...]
    bound: Bound | None


def check_bounds(part: Any, prefix: str = "") -> None:
    """Raise InputError naming the first number of a dataclass, nested ones included, that is out of its bound.

    A number that is not finite is out of every bound; a field that is None passes.
    """
    for name, values, bound in numbers(part, prefix):
        for value in values:
            if not math.isfinite(value):
                raise InputError(f"{name} is {value:g}, expected a finite number")
            if bound is not None and not bound.holds(value):
                raise InputError(f"{name} is {value:g}, expected {bound.expected}")


def numbers(part: Any, prefix: str = "") -> Iterator[Number]:
    """Yield every field of a dataclass that holds a number or a tuple of numbers, those of nested dataclasses too."""
    bounds = _bounds(type(part))
    for field in fields(part):
        name, value = f"{prefix}{field.name}", getattr(part, field.name)
        if is_dataclass(value):
            yield from numbers(value, f"{name}.")
            continue
        held = value if isinstance(value, tuple) else (value,)
        if all(isinstance(each, int | float) for each in held):
            yield Number(name, held, bounds.get(field.name))


@cache
def _bounds(kind: type) -> dict[str, Bound]:
    hints = get_type_hints(kind, include_extras=True)
    found = {name: [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Bound)]
             for name, hint in hints.items()}  # fmt: skip
    return {name: bounds[0] for name, bounds in found.items() if bounds}


def parse(kind: Any, **options: Any) -> Any:
    """Call `tyro.cli`. Raises InputError, in one line, for what tyro refuses."""
    import tyro  # late, because training imports modules whose commands it does not run

    with in_one_line():
        return tyro.cli(kind, **options)


def later(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Wrap a function whose parameters are a command's flags, so that tyro's call of it returns the call to make once
    all flags are checked."""

    @wraps(command)
    def bound(*args: Any, **named: Any) -> Callable[[], None]:
        return partial(command, *args, **named)

    return bound


@contextmanager
def in_one_line() -> Generator[None]:
    """Turn what tyro refuses inside, in a box of several lines, into an InputError; let its other output pass."""
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            yield
    except SystemExit as ended:
        if ended.code != 2:
            raise
        raise InputError(unboxed(printed.getvalue())) from None
    sys.stderr.write(printed.getvalue())


def unboxed(box: str) -> str:
    """Take from tyro's box the message at its top and what was expected or is similar; add where all flags are
    shown."""
    rows = [line.strip("│ ") for line in box.splitlines()[1:]]
    parts: list[list[str]] = [[]]  # between rules
    for row in rows:
        if row and not row.strip("─-╰╯"):
            parts.append([])
        elif row:
            parts[-1].append(row)
    message, *others = [part for part in parts if part] or [[box.strip()]]
    hints = [hint for help in others if (hint := _hint(help))]
    said = (
        " ".join(message).partition(" Got errors: ")[0].rstrip(".")
    )  # what each type of a field with several has to say
    if found := NO_TYPE.match(said):
        said = f"{found[1]} is {' '.join(ast.literal_eval(found[2]))}"
    return "; ".join([said, *hints, "--help shows every flag"])


def _hint(part: list[str]) -> str:
    """Take the hint from a part of the box below its message; nothing where it only says how to see the help."""
    if part[0].startswith("Available subcommands: "):
        return f"the first word is one of: {' '.join(part).partition(': ')[2]}"
    if len(part) == 1 or not part[0].endswith(":") or part[0].startswith("For full helptext"):
        return ""
    if part[0].startswith("Argument helptext"):
        return f"expected {part[1]}"
    return f"did you mean {part[1].split()[0].rstrip(',')}?"
