"""A run that hangs ends: no step for too long, and the process says where it stands and is gone, to be restarted."""

import contextlib
import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import final

from models.records import failures
from models.records.events import heard
from models.records.exit_codes import CRASHED
from pipeline.concurrency.watchdog import standing

TICKS, SPARE_S = 20, 30.0
FIRST, PAUSED, WAITING = 6, 6, 1.5
"""How many times longer: until the first step is done, which compiles; while evaluating or saving; and for ranks that
wait for others, so that the one they wait for goes first, and says why."""
PEERS = "/torch/distributed/", "/torch/autograd/graph.py", "/models/training/stop.py"
"""Files whose calls wait for other ranks: collectives, gradients' averages in the backward pass, votes."""


@final
class HangTimeout:
    """Ends this process unless it is called, after each step, at least every `hang_timeout_s` seconds.

    Seconds are counted in ticks: a process that was suspended and woken has not hung. Should Python itself stand
    still, in a library that keeps its lock, faulthandler ends it after twice the time.
    """

    def __init__(self, folder: Path, rank: int, ranks: int, hang_timeout_s: float) -> None:
        self.folder, self.rank, self.ranks, self.hang_timeout_s = folder, rank, ranks, hang_timeout_s
        self.step, self.waited_s, self.factor, self.over = 0, 0.0, float(FIRST), threading.Event()
        self.main = threading.get_ident()
        self._rearm()
        self._thread = threading.Thread(target=self._watch, name="hang timeout", daemon=True)
        self._thread.start()

    def __call__(self, step: int) -> None:
        """This many steps are done."""
        self.step, self.waited_s, self.factor = step, 0.0, 1.0

    @contextlib.contextmanager
    def longer(self) -> Iterator[None]:
        """For what takes longer than a step: evaluations, saves, the report."""
        self.waited_s, before, self.factor = 0.0, self.factor, float(PAUSED)
        try:
            yield
        finally:
            self.waited_s, self.factor = 0.0, before

    def close(self) -> None:
        """Stop watching."""
        self.over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        tick_s = self.hang_timeout_s / TICKS
        while not self.over.wait(tick_s):
            self.waited_s += tick_s
            self._rearm()
            if self.waited_s <= self.hang_timeout_s * self.factor:
                continue
            place, waits = where(sys._current_frames()[self.main])
            if waits and self.ranks > 1 and self.waited_s <= self.hang_timeout_s * self.factor * WAITING:
                continue
            self._end(place, waits and self.ranks > 1)

    def _end(self, place: str, waits: bool) -> None:
        error = f"TimeoutError: no step for {self.waited_s:.0f} s after step {self.step}, in {place}"
        if waits:
            error += f"; timed out waiting for other ranks, last heard at steps {self._others()}"
        print(
            f"{standing()}\n{failures.said(failures.note(self.folder, self.rank, error))}", file=sys.stderr, flush=True
        )
        os._exit(CRASHED)

    def _others(self) -> str:
        found = sorted((row["step"], rank, row["node"]) for rank, row in heard(self.folder).items())
        return ", ".join(f"{step} (rank {rank} on {node})" for step, rank, node in found[:4])

    def _rearm(self) -> None:
        with contextlib.suppress(ValueError, AttributeError, OSError):  # stderr may be no file
            faulthandler.dump_traceback_later(2 * self.hang_timeout_s + SPARE_S, exit=True)


def where(frame: FrameType | None) -> tuple[str, bool]:
    """The line in which a thread stands, of our code if there is any; and whether it waits for other ranks there."""
    calls = [(each.f_code.co_filename, line) for each, line in traceback.walk_stack(frame)]
    waits = any(part in calls[0][0] for part in PEERS)
    own = [(path, line) for path, line in calls if "/site-packages/" not in path and "/lib/python" not in path]
    path, line = (own or calls)[0]
    return f"{Path(path).name}:{line}", waits
