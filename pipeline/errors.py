"""The one kind of error a user can cause, and how a command ends on it."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Wrong input, said in one line: what was expected, what came, what to do."""


def command(main: Callable[[], int | None]) -> None:
    """Run a command line's main; an InputError becomes one line on stderr and exit code 2."""
    try:
        sys.exit(main() or 0)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
