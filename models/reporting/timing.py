"""Measure the speed of a run, its waiting for data, and which rank is the slowest."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import final

import torch

SLOW, MATTERS, INTERVALS = 1.2, 0.05, 3
"""A straggler: beyond SLOW times the median, by more than MATTERS of a step, in INTERVALS intervals running."""


@final
class StepTimer:
    """Images and waiting since the last reading; the first step, which compiles and fills queues, is not timed.

    with timer.forward(): ...          # the forward pass of each micro-batch
    timer.step(images, wait_s)         # after each step
    timer.read()                       # {"images_per_s", "wait_share", "step_s", "own_s"}
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._since: float | None = None
        self._steps, self._images, self._wait_s, self._forward_s = 0, 0, 0.0, 0.0
        self._forwards: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Time a forward pass, on the device. Ranks wait for each other in the backward pass, but not in this one."""
        if self.device.type == "cuda":
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            yield
            ended.record()
            self._forwards.append((began, ended))
        else:
            began = time.perf_counter()
            yield
            self._forward_s += time.perf_counter() - began

    def step(self, images: int, wait_s: float) -> None:
        """Count a step of so many images over all ranks, for which this rank waited `wait_s` for the loader."""
        if self._since is None:
            self._since, self._forward_s, self._forwards = time.perf_counter(), 0.0, []
        else:
            self._steps, self._images, self._wait_s = self._steps + 1, self._images + images, self._wait_s + wait_s

    def skip(self, seconds: float) -> None:
        """Leave so many seconds, which have just passed, out of the interval."""
        if self._since is not None:
            self._since += seconds

    def read(self) -> dict[str, float | None]:
        """Means since the last reading; call it when the device has done its steps.

        own_s  seconds of a step that this rank spends alone, on data and in the forward pass
        """
        now = time.perf_counter()
        spent, steps, images, wait_s = now - self._since, self._steps, self._images, self._wait_s
        forward_s = self._forward_s + sum(began.elapsed_time(ended) for began, ended in self._forwards) / 1000
        self._since, self._forwards = now, []
        self._steps, self._images, self._wait_s, self._forward_s = 0, 0, 0.0, 0.0
        if steps == 0:
            return {"images_per_s": None, "wait_share": 0.0, "step_s": None, "own_s": 0.0}
        return {
            "images_per_s": images / spent,
            "wait_share": min(1.0, wait_s / spent),
            "step_s": spent / steps,
            "own_s": (wait_s + forward_s) / steps,
        }


@final
class Stragglers:
    """The slowest rank of each interval, and a warning about one that is the slowest several times running."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes, self.rank, self.times = nodes, -1, 0

    def timing(self, own_s: Sequence[float], images_per_s: float | None) -> dict[str, float]:
        """The fields of a row's timing that compare ranks, from each rank's own seconds in a step."""
        slowest = max(range(len(own_s)), key=own_s.__getitem__)
        found = {"median_own_s": median(own_s), "slowest_own_s": own_s[slowest], "slowest_rank": slowest}
        return found | ({"node_images_per_s": images_per_s / len(set(self.nodes))} if images_per_s else {})

    def warning(self, timing: dict[str, float], step_s: float | None) -> str | None:
        """One line about a straggler, in the interval in which it becomes one; None otherwise."""
        usual, slowest, rank = timing["median_own_s"], timing["slowest_own_s"], timing["slowest_rank"]
        slow = step_s is not None and slowest > SLOW * usual and slowest - usual > MATTERS * step_s
        self.times = (self.times + 1 if rank == self.rank else 1) if slow else 0
        self.rank = rank
        if self.times != INTERVALS:
            return None
        return (
            f"rank {rank} on {self.nodes[rank]} holds up the others: {slowest:.3g} s a step for data and forward, "
            f"usual are {usual:.3g} s"
        )
