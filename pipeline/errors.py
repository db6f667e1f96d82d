"""The one kind of error a user can cause, and how a command ends on it."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr

FIRST_RANK_S = 3.0


class InputError(ValueError):
    """Wrong input, said in one line: what was expected, what came, what to do."""

    code = 2


class Unavailable(InputError):
    """Storage or a machine that failed, said as plainly: not the command's fault, so that another try is worth it."""

    code = 1


left_behind: list[str] = []
"""Threads that were given up (pipeline.threads): Python's own shut-down could trip over one that wakes amid it."""


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
    hints = [
        f"expected {help[1]}" if help[0].startswith("Argument helptext") else f"did you mean {help[1].split()[0]}?"
        for help in others
        if len(help) > 1 and help[0].endswith(":")
    ]
    return "; ".join([" ".join(message).rstrip("."), *hints, "--help shows every flag"])


def command(main: Callable[[], int | None]) -> None:
    """Run a command line's main; an InputError becomes one line on stderr and its exit code, Ctrl-C one line and 130.

    Of several ranks the first says at once what is wrong. The others wait, and speak only if they are still there:
    where the first has ended on the same error torchrun ends them meanwhile, so that the line comes once; an error
    that the first does not have is said all the same.
    """
    code = _code(main)
    if left_behind:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _code(main: Callable[[], int | None]) -> int:
    first = os.environ.get("RANK", "0") == "0"
    try:
        return main() or 0
    except KeyboardInterrupt:
        if first:
            print("interrupted", file=sys.stderr)
        return 130  # as shells call it
    except BrokenPipeError:  # whoever read our output, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except InputError as error:
        if not first:
            time.sleep(FIRST_RANK_S)
        print(f"error: {error}", file=sys.stderr)
        return error.code
