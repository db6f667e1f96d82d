"""Stopping on request: a signal or the clock sets a flag, all ranks save after the same step and exit with 75."""

import os
import re
import signal
import subprocess
import time
from types import FrameType
from typing import final

import torch
import torch.distributed as dist

from models.distributed.process_group import World

SIGNALS = signal.SIGTERM, signal.SIGUSR2, signal.SIGINT
NO, CLOCK, SIGNAL, STEP = range(4)
WHY = "", "its job's time is nearly over", "asked by a signal", "run.stop_step"
MARGIN_S = 30.0


@final
class Stop:
    """Why to stop, seen from this process: SIGTERM, SIGUSR2 or SIGINT has come, or its job ends soon; else NO.

    Saving in a handler could meet a half-done step, so none is done here. Another SIGINT, over a second later,
    interrupts at once: torchrun hands a Ctrl-C on to its workers, who have had it from the terminal already.
    """

    def __init__(self, left_s: float | None = None) -> None:
        """left_s: seconds until the job ends; never where absent."""
        self.asked_at: float | None = None
        self.left_s, self.ends_at = left_s, None if left_s is None else time.monotonic() + left_s
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def why(self, save_s: float) -> int:
        """SIGNAL, CLOCK or NO. The clock leaves time for two saves and MARGIN_S, or half of a job that is shorter."""
        if self.asked_at is not None:
            return SIGNAL
        if self.ends_at is None:
            return NO
        margin = min(2 * save_s + MARGIN_S, self.left_s / 2)
        return CLOCK if time.monotonic() > self.ends_at - margin else NO

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.asked_at is not None and now - self.asked_at > 1:
            raise KeyboardInterrupt
        self.asked_at = self.asked_at or now


@final
class Vote:
    """Ranks agree on why to stop, every step, without waiting: what they say after one step all read after the next."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._open: tuple[dist.Work, torch.Tensor] | None = None

    def __call__(self, why: int) -> int:
        """The largest `why` of any rank one step ago, of this process at once if it is alone. A collective call."""
        if self.world.size == 1:
            return why
        before = self.close()
        votes = torch.tensor(why)
        self._open = dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.world.control, async_op=True), votes
        return before

    def close(self) -> int:
        """Wait for the vote under way, if any, and read it; before ranks part. A collective call."""
        if self._open is None:
            return NO
        (work, votes), self._open = self._open, None
        work.wait()
        return int(votes)


def job_left_s() -> float | None:
    """Seconds until this process's Slurm job ends; None outside of Slurm, without a limit, or if nobody knows."""
    if end := os.environ.get("SLURM_JOB_END_TIME"):  # Slurm 23.02 and later
        return float(end) - time.time()
    if (job := os.environ.get("SLURM_JOB_ID")) is None:
        return None
    try:
        asked = ["squeue", "-h", "-j", job, "-o", "%L"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return duration_s(said.strip().splitlines()[0]) if said.strip() else None


def duration_s(said: str) -> float | None:
    """Slurm's 1-02:03:04, 2:03:04 or 3:04 in seconds; None for UNLIMITED, NOT_SET and INVALID."""
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", said)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
