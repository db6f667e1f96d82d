"""Time cases that take turns in one process.

The clock is CPU time over all threads, and over the processes that a case has started and ended: a busy machine changes
it little. Ratios compare turns of the same round.

    turns = interleaved({"ours": case, "theirs": other}, rounds=5)
    times(turns["ours"], turns["theirs"])     # 1.3: a CPU-second prepares 1.3 times as many images
"""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

Case = Callable[[], int]
"""Prepares images and returns how many they were; when it returns, none of its work still goes on."""


class Turn(NamedTuple):
    """Images per CPU-second, and images per second on the wall's clock."""

    cpu: float
    wall: float


Turns = dict[str, list[Turn]]


@dataclass(frozen=True)
class Rate:
    """Images per CPU-second: median, lowest and highest of `n` rounds; wall: median images per second."""

    median: float
    low: float
    high: float
    wall: float
    n: int


def interleaved(cases: dict[str, Case], rounds: int) -> Turns:
    """Run every case once in each round, after one round that compiles and warms up and is not counted."""
    turns: Turns = {name: [] for name in cases}
    for round_number in range(rounds + 1):
        for name, case in cases.items():
            cpu, wall = cpu_s(), time.perf_counter()
            n = case()
            cpu, wall = cpu_s() - cpu, time.perf_counter() - wall
            if round_number:
                turns[name].append(Turn(n / max(cpu, 1e-9), n / max(wall, 1e-9)))
    return turns


def cpu_s() -> float:
    """Return the CPU seconds of this process and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def rate(turns: list[Turn]) -> Rate:
    """Summarise the rounds of one case."""
    cpu = [turn.cpu for turn in turns]
    return Rate(statistics.median(cpu), min(cpu), max(cpu), statistics.median(t.wall for t in turns), len(turns))


def times(one: list[Turn], other: list[Turn]) -> float:
    """Compute how many times as many images as in `other` a CPU-second prepares in `one`: the median over the
    rounds."""
    return statistics.median(a.cpu / b.cpu for a, b in zip(one, other, strict=True))
