"""How fast a run goes and who waits for whom, and how that is said in a line."""

import time
from typing import final

from models.training.distributed import World


@final
class Clock:
    """Images and waiting since the last reading; the first step, which compiles and fills queues, is not timed."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.steps, self.images, self.wait_s = 0, 0, 0.0

    def step(self, images: int, wait_s: float) -> None:
        if self.since is None:
            self.since = time.perf_counter()
        else:
            self.steps, self.images, self.wait_s = self.steps + 1, self.images + images, self.wait_s + wait_s

    def skip(self, seconds: float) -> None:
        if self.since is not None:
            self.since += seconds

    def read(self) -> dict[str, float | None]:
        now = time.perf_counter()
        spent, steps, images, wait_s = now - self.since, self.steps, self.images, self.wait_s
        self.since, self.steps, self.images, self.wait_s = now, 0, 0, 0.0
        if steps == 0:
            return {"images_per_s": None, "wait_share": 0.0, "step_s": None}
        return {"images_per_s": images / spent, "wait_share": min(1.0, wait_s / spent), "step_s": spent / steps}


def line(place: str, row: dict, left_s: float | None) -> str:
    """A row of the journal as one line on the terminal."""
    timing = row["timing"]
    said = [place, f"loss {row['loss']:.4f}", *(f"{name} {value:.4f}" for name, value in row["parts"].items())]
    if "passed" in row.get("pseudo", {}):
        said.append(f"passed {row['pseudo']['passed']:.0%}")
    if timing["images_per_s"] is not None:
        said += [f"{timing['images_per_s']:,.0f} img/s", f"wait {timing['wait_share']:.0%}"]
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


def headline(name: str, files: str, batches: tuple[int, int], steps: int, world: World, micro: int, start: int) -> str:
    """What is about to happen, in a line."""
    parts = [f"{n} {kind}" for n, kind in zip(batches, ("labelled", "unlabelled"), strict=True) if n]
    said = f"{name}: {files}, {' + '.join(parts)} a step, {steps:,} steps on {world.size} x {world.device.type}"
    said += f", {micro} micro-batches" if micro > 1 else ""
    return said + (f", from step {start:,}" if start else "")
