"""The one kind of error a user can cause, and how a command ends on it."""

import os
import sys
import time
from collections.abc import Callable

FIRST_RANK_S = 3.0


class InputError(ValueError):
    """Wrong input, said in one line: what was expected, what came, what to do."""

    code = 2


class Unavailable(InputError):
    """Storage or a machine that failed, said as plainly: not the command's fault, so that another try is worth it."""

    code = 1


left_behind: list[str] = []
"""Threads that were given up (pipeline.concurrency.threads): Python's own shut-down could trip over one that wakes amid
it."""


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
