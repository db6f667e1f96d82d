"""Errors that a user can cause or meet, and how a command ends on them.

raise InputError(f"{path}: no such file; expected a .beton")
command(main)     # prints "error: ..." and exits with code 2
"""

import os
import sys
import time
from collections.abc import Callable
from io import TextIOWrapper
from typing import NoReturn

FIRST_RANK_S = 3.0  # seconds that other ranks wait for the first to report an error


class InputError(ValueError):
    """Error of wrong input, in one line: what was expected, what came, what to do."""

    code = 2


class Unavailable(InputError):
    """Error of storage or of a machine, in one line: the input is right, so that another try may succeed."""

    code = 1


left_behind: list[str] = []
"""Names of threads that did not end (pipeline.concurrency.threads). Python's shut-down may crash if one of them wakes
during it, so a command then ends without it."""


def command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command line's main; an InputError becomes one line on stderr and its exit code, Ctrl-C one line and 130.

    Of several ranks the first reports an error at once. The others wait before they report theirs: if the first has
    ended on the same error, torchrun ends them meanwhile, so that the line comes once; an error that the first does not
    have is still reported. Output that its encoding cannot hold, of a path that is no UTF-8 say, is escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a test's stand-in may be something else
            stream.reconfigure(errors="backslashreplace")
    code = _code(main)
    if left_behind:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _code(main: Callable[[], int | None]) -> int:
    first = os.environ.get("RANK", "0") == "0"
    try:
        try:
            code = main() or 0
        except SystemExit:  # after --help, say
            _flush()
            raise
        _flush()
        return code
    except KeyboardInterrupt:
        if first:
            print("interrupted", file=sys.stderr)
        return 130  # as shells call it
    except BrokenPipeError:  # the reader of our output, `head` for example, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except InputError as error:
        if not first:
            time.sleep(FIRST_RANK_S)
        line = str(error).replace("\n", "\\n").replace("\r", "\\r")  # of a path, say
        print(f"error: {line}", file=sys.stderr)
        return error.code


def _flush() -> None:
    """Write out what is printed. Left to Python's shut-down, a reader that has ended would be said in a traceback."""
    print(end="", flush=True)
