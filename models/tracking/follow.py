"""Start the process that sends a run's journal to a service, and let it end after the run.

with following(folder, "wandb"): ...     # the run; None follows nothing

The process is another one, so that no step waits for what it does, imports or waits for, and none of its errors is the
run's. Once its last step and report are done, the run waits for it for up to END_S seconds.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

END_S = 10.0
"""Seconds that a run which has ended waits for its last rows to be sent."""
ROOT = Path(__file__).parents[2]
_left: list[subprocess.Popen] = []
"""Processes that were still sending when their run ended; they end by themselves (child.LAST_S)."""


@contextmanager
def following(folder: Path, service: str | None) -> Generator[None]:
    """Follow the run in `folder` inside; at the end wait up to END_S for the last rows, after an error not at all."""
    if service is None:
        yield
        return
    try:
        child = _start(folder, service)
    except OSError as error:
        print(f"warning: tracking: no process for {service} could be started ({error.strerror})", file=sys.stderr)
        yield
        return
    echo = threading.Thread(target=_echo, args=(child,), name="tracking", daemon=True)
    echo.start()
    wait_s = 0.0
    try:
        yield
        wait_s = END_S
    finally:
        _end(child, echo, wait_s, service)


def _start(folder: Path, service: str) -> subprocess.Popen:
    """The child in a session of its own, which a signal to the run's process group does not reach."""
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "models.tracking.child", str(folder.absolute()), service],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
    )


def _echo(child: subprocess.Popen) -> None:
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            print(line, end="", file=sys.stderr if line.startswith("warning") else sys.stdout, flush=True)


def _end(child: subprocess.Popen, echo: threading.Thread, wait_s: float, service: str) -> None:
    """Tell the child that the run has ended, by closing its standard input."""
    assert child.stdin is not None
    with suppress(OSError):
        child.stdin.close()
    line = None
    try:
        if code := child.wait(wait_s):
            line = f"the process for {service} ended with code {code}"
        echo.join(1.0)
    except subprocess.TimeoutExpired:
        _left.append(child)
        line = f"{service} still sends, and the run does not wait for it" if wait_s else None
    if line:
        missing = "`python -m models.tracking` sends what is missing"
        print(f"warning: tracking: {line}; {missing}", file=sys.stderr, flush=True)
