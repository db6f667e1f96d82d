"""How fast a run goes and who waits for whom, and how that is said in a line."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import final

import torch

from models.distributed.process_group import World
from models.optim.schedule import RunLength
from pipeline.text import percent

SLOW, MATTERS, INTERVALS = 1.2, 0.05, 3


@final
class Clock:
    """Images and waiting since the last reading; the first step, which compiles and fills queues, is not timed."""

    def __init__(self, device: torch.device) -> None:
        self.since: float | None = None
        self.device, self.steps, self.images, self.wait_s, self.forward_s = device, 0, 0, 0.0, 0.0
        self._forwards: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Time what happens inside, on the device: no rank waits for another there, as all do in the backward pass."""
        if self.device.type == "cuda":
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            yield
            ended.record()
            self._forwards.append((began, ended))
        else:
            began = time.perf_counter()
            yield
            self.forward_s += time.perf_counter() - began

    def step(self, images: int, wait_s: float) -> None:
        if self.since is None:
            self.since, self.forward_s, self._forwards = time.perf_counter(), 0.0, []
        else:
            self.steps, self.images, self.wait_s = self.steps + 1, self.images + images, self.wait_s + wait_s

    def skip(self, seconds: float) -> None:
        if self.since is not None:
            self.since += seconds

    def read(self) -> dict[str, float | None]:
        """Means since the last reading, once the device has done its steps. `own_s`: of a step, data and forward."""
        now = time.perf_counter()
        spent, steps, images, wait_s = now - self.since, self.steps, self.images, self.wait_s
        forward_s = self.forward_s + sum(began.elapsed_time(ended) for began, ended in self._forwards) / 1000
        self.since, self.steps, self.images, self.wait_s, self.forward_s, self._forwards = now, 0, 0, 0.0, 0.0, []
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
    """Who holds up the others: the slowest rank of each interval, and a line once it was so several times running."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes, self.rank, self.times = nodes, -1, 0

    def timing(self, own_s: Sequence[float], images_per_s: float | None) -> dict[str, float]:
        """What a row says of several ranks, from each one's own seconds in a step."""
        slowest = max(range(len(own_s)), key=own_s.__getitem__)
        found = {"median_own_s": median(own_s), "slowest_own_s": own_s[slowest], "slowest_rank": slowest}
        return found | ({"node_images_per_s": images_per_s / len(set(self.nodes))} if images_per_s else {})

    def line(self, timing: dict[str, float], step_s: float | None) -> str | None:
        """What to print, once for a rank that stays slow: beyond SLOW times the median, by an amount that matters."""
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


def line(place: str, row: dict, left_s: float | None) -> str:
    """A row of the journal as one line on the terminal."""
    timing = row["timing"]
    said = [place, f"loss {row['loss']:.4f}", *(f"{name} {value:.4f}" for name, value in row["parts"].items())]
    if "passed" in row.get("pseudo", {}):
        said.append(f"passed {percent(row['pseudo']['passed'])}")
    if "replaced" in row:
        said.append(f"replaced {row['replaced']}")
    if timing["images_per_s"] is not None:
        said += [f"{timing['images_per_s']:,.0f} img/s", f"wait {percent(timing['wait_share'])}"]
    if "memory_gb" in timing:
        said.append(f"{timing['memory_gb']:.1f} GB")
    if left_s is not None:
        said.append(f"left {duration(left_s)}")
    return "  ".join(said)


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter: 3 d 4 h, 2 h 05 min, 1 min 09 s, 42 s."""
    seconds = round(seconds)
    for unit, name, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit:
            return f"{seconds // unit} {name} {seconds % unit // below:02d} {small}"
    return f"{seconds} s"


def headline(
    name: str, files: str, batches: tuple[int, int], length: RunLength, world: World, micro: int, start: int
) -> str:
    """What is about to happen, in a line."""
    parts = [f"{n} {kind}" for n, kind in zip(batches, ("labelled", "unlabelled"), strict=True) if n]
    said = f"{name}: {files}, {' + '.join(parts)} a step, {length.total_steps:,} steps"
    said += f", the first {length.labels_only_steps:,} on labels alone," if length.labels_only_steps else ""
    said += f" on {world.size} x {world.device.type}"
    said += f", {micro} micro-batches" if micro > 1 else ""
    return said + (f", from step {start:,}" if start else "")
