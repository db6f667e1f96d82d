"""Signs of life of a rank: a heartbeat file that others can read, and an end to a process in which no step ends."""

import contextlib
import faulthandler
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import final

from models.records import failures
from models.records.events import NODE
from models.records.exit_codes import CRASHED
from models.records.jsonl import TEXT, wrong_field
from pipeline.concurrency.watchdog import standing

FOLDER, BEAT_S = "heartbeat", 10.0
TICKS, SPARE_S = 20, 30.0
FIRST, PAUSED, WAITING = 6, 6, 1.5
"""Factors of the timeout: until the first step is done, and while a graph is compiled; during evaluations and saves;
and for a rank that waits for another one, so that the rank which it waits for times out before it and its error is the
first."""
COMPILERS = "/torch/_dynamo/", "/torch/_inductor/", "/torch/_functorch/_aot_autograd/", "/triton/compiler/"
"""Files whose calls compile. The backward graph is compiled by a thread of autograd, while the loop's waits for it."""
WAITS_FOR_RANKS = "/torch/distributed/", "/torch/autograd/graph.py", "/models/training/stop.py"
"""Files whose calls wait for other ranks: collectives, the averaging of gradients in the backward pass, votes."""


@final
class Heartbeat:
    """Writes `folder`/heartbeat/rank-N, {time, step, node}, after a step, at most once in BEAT_S seconds.

    heartbeat = Heartbeat(folder, rank)
    heartbeat(step)                     # after each step
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.path, self.due = folder / FOLDER / f"rank-{rank}", 0.0
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, step: int) -> None:
        if (now := time.monotonic()) < self.due:
            return
        self.due = now + BEAT_S
        with contextlib.suppress(OSError):  # a full disk must not end the run here
            # not written by write_whole, which syncs the disk: a heartbeat that is lost or torn does no harm
            self.path.write_text(json.dumps({"time": round(time.time(), 3), "step": step, "node": NODE}) + "\n")


def heartbeats(folder: Path) -> dict[int, dict]:
    """The last heartbeat of each rank that has written one, by rank."""
    found = {}
    for path in (folder / FOLDER).glob("rank-*"):
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is being written
            found[int(path.name.removeprefix("rank-"))] = json.loads(path.read_text())
    return {rank: row for rank, row in found.items() if wrong_field(row, {"step": (int,), "node": TEXT}) is None}


@final
class HangTimeout:
    """Ends this process if it is not called, after each step, at least every `hang_timeout_s` seconds.

    hang_timeout = HangTimeout(folder, rank, ranks, 600)
    hang_timeout(step)                  # after each step
    with hang_timeout.extended(): ...   # around an evaluation

    A thread counts the seconds in ticks, so that the time for which a process was suspended does not count. If Python
    itself stands still, in a library that keeps the interpreter's lock, faulthandler ends the process after twice the
    timeout.
    """

    def __init__(self, folder: Path, rank: int, ranks: int, hang_timeout_s: float) -> None:
        self.folder, self.rank, self.ranks, self.hang_timeout_s = folder, rank, ranks, hang_timeout_s
        self.step, self.waited_s, self.factor = 0, 0.0, float(FIRST)
        self._main, self._closed = threading.get_ident(), threading.Event()
        self._rearm()
        self._thread = threading.Thread(target=self._watch, name="hang timeout", daemon=True)
        self._thread.start()

    def __call__(self, step: int) -> None:
        """Begin to count anew; `step` steps are done."""
        self.step, self.waited_s, self.factor = step, 0.0, 1.0

    @contextlib.contextmanager
    def extended(self) -> Generator[None]:
        """Allow PAUSED times as long inside: for evaluations, saves and the report."""
        self.waited_s, before, self.factor = 0.0, self.factor, float(PAUSED)
        try:
            yield
        finally:
            self.waited_s, self.factor = 0.0, before

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        tick_s = self.hang_timeout_s / TICKS
        while not self._closed.wait(tick_s):
            self.waited_s += tick_s
            self._rearm()
            if self.waited_s <= self.hang_timeout_s * self.factor:
                continue
            frames = sys._current_frames()
            if self.waited_s <= self.hang_timeout_s * FIRST and any(map(compiles, frames.values())):
                continue
            place, waits = position(frames[self._main])
            if waits and self.ranks > 1 and self.waited_s <= self.hang_timeout_s * self.factor * WAITING:
                continue
            self._end(place, waits and self.ranks > 1)

    def _end(self, place: str, waits: bool) -> None:
        error = f"TimeoutError: no step for {self.waited_s:.0f} s after step {self.step}, in {place}"
        if waits:
            error += f"; timed out waiting for other ranks, whose last heartbeats are of steps {self._others()}"
        failure = failures.record(self.folder, self.rank, error)
        print(f"{standing()}\n{failures.describe(failure)}", file=sys.stderr, flush=True)
        os._exit(CRASHED)

    def _others(self) -> str:
        found = sorted((row["step"], rank, row["node"]) for rank, row in heartbeats(self.folder).items())
        return ", ".join(f"{step} (rank {rank} on {node})" for step, rank, node in found[:4])

    def _rearm(self) -> None:
        with contextlib.suppress(ValueError, AttributeError, OSError):  # stderr may be no file
            faulthandler.dump_traceback_later(2 * self.hang_timeout_s + SPARE_S, exit=True)


def compiles(frame: FrameType) -> bool:
    """Whether a thread whose innermost frame is `frame` is compiling a graph or a kernel.

    A compiled function's call has frames of the compiler, too, and the code that it calls beneath them.
    """
    paths = (each.f_code.co_filename for each, _ in traceback.walk_stack(frame))
    return any(part in path for path in itertools.takewhile(_not_ours, paths) for part in COMPILERS)


def _not_ours(path: str) -> bool:
    return "/site-packages/" in path or "/lib/python" in path


def position(frame: FrameType | None) -> tuple[str, bool]:
    """The "file:line" at which a thread's frame stands, of this project if it has one on the stack; and whether the
    innermost call waits for other ranks.
    """
    calls = [(each.f_code.co_filename, line) for each, line in traceback.walk_stack(frame)]
    waits = any(part in calls[0][0] for part in WAITS_FOR_RANKS)
    own = [(path, line) for path, line in calls if not _not_ours(path)]
    path, line = (own or calls)[0]
    return f"{Path(path).name}:{line}", waits
