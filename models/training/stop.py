"""Stop on request: at a signal, or before the job's time ends, all ranks save after the same step and exit with 75."""

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
NO, TIME, SIGNAL, STEP = range(4)
WHY = "", "its job's time is nearly over", "asked by a signal", "run.stop_step"
"""Reasons to stop, as numbers that ranks vote with, and in words."""
MARGIN_S = 30.0


@final
class Stop:
    """This process's reason to stop: SIGTERM, SIGUSR2 or SIGINT has come, or its job ends soon.

    stop = Stop(job_left_s())
    stop.why(save_s=2.0)       # NO, TIME or SIGNAL
    stop.close()

    The signal handler sets a flag and nothing else, as a save in it could meet a half-done step. A second SIGINT more
    than a second later raises KeyboardInterrupt; an earlier one is ignored, as torchrun passes on to its workers the
    Ctrl-C that they have already had from the terminal.
    """

    def __init__(self, left_s: float | None = None) -> None:
        """left_s: seconds until the job ends; None: it has no end."""
        self.asked_at: float | None = None
        self.left_s, self.ends_at = left_s, None if left_s is None else time.monotonic() + left_s
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def why(self, save_s: float) -> int:
        """SIGNAL, TIME or NO. TIME leaves two saves of `save_s` and MARGIN_S seconds, or half of a shorter job."""
        if self.asked_at is not None:
            return SIGNAL
        if self.ends_at is None or self.left_s is None:
            return NO
        margin = min(2 * save_s + MARGIN_S, self.left_s / 2)
        return TIME if time.monotonic() > self.ends_at - margin else NO

    def close(self) -> None:
        """Restore the signal handlers from before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.asked_at is not None and now - self.asked_at > 1:
            raise KeyboardInterrupt
        self.asked_at = self.asked_at or now


@final
class Vote:
    """Ranks agree on a reason to stop after every step without waiting: a vote after one step is read after the next.

    vote = Vote(world)
    vote(stop.why(save_s))     # after each step: the largest reason of any rank, one step ago
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._open: tuple[dist.Work, torch.Tensor] | None = None

    def __call__(self, why: int) -> int:
        """The largest reason of any rank one step ago; `why` itself in a single process. A collective call."""
        if self.world.size == 1:
            return why
        before = self.close()
        votes = torch.tensor(why)
        self._open = dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.world.control, async_op=True), votes
        return before

    def close(self) -> int:
        """Wait for the vote under way and return its result, NO if there is none. A collective call."""
        if self._open is None:
            return NO
        (work, votes), self._open = self._open, None
        work.wait()
        return int(votes)


def job_left_s() -> float | None:
    """Seconds until this process's Slurm job ends; None outside of Slurm, without a time limit, or if squeue fails."""
    if end := os.environ.get("SLURM_JOB_END_TIME"):  # Slurm 23.02 and later
        return float(end) - time.time()
    if (job := os.environ.get("SLURM_JOB_ID")) is None:
        return None
    try:
        command = ["squeue", "-h", "-j", job, "-o", "%L"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return duration_s(answer.strip().splitlines()[0]) if answer.strip() else None


def duration_s(text: str) -> float | None:
    """Slurm's 1-02:03:04, 2:03:04 or 3:04 in seconds; None for UNLIMITED, NOT_SET and INVALID."""
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
