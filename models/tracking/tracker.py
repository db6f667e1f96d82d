"""Interface of a tracker, which hands the rows of one run's journal to one service."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, final

PROJECT = "shotcrete"
"""Project or experiment of a run, unless the service's own environment variable names another."""
State = Literal["running", "finished", "stopped", "failed"]
"""How a run stands: stopped was saved, to be continued; failed ended without that."""


class Point(NamedTuple):
    """A row of metrics.jsonl.

    step     updates that were done
    row      "" for means over an interval, else the file that was evaluated, such as "val": its name among the rows of
             a step
    metrics  finite numbers by name, such as "loss", "parts/pixels", "timing/images_per_s" and "val/top1"
    time_ms  milliseconds since 1970 at which it was measured; a function of the run folder
    """

    step: int
    row: str
    metrics: dict[str, float]
    time_ms: int


@final
@dataclass(frozen=True)
class TrackedRun:
    """A run as a service shows it.

    name    that of the recipe, or of the folder that run.folder names
    group   the sweep that it is a member of; None for a single run
    config  every field of the recipe by its dotted name, and the environment
    files   folder for what the service itself keeps on this disk
    """

    name: str
    group: str | None
    config: dict[str, str | int | float | bool | None]
    files: Path


class Tracker(ABC):
    """Interface of a tracker. Its methods are called by one thread, and may raise anything or take their time.

    tracker = tracker_of("wandb")
    id = tracker.open(run, None)        # the id with which a later start opens the same run
    tracker.log(points)
    tracker.finish({"state": "finished"}, "finished")
    """

    settle_s: ClassVar[float] = 0.0
    """Seconds after `log` until the service itself has written what it was given."""

    @abstractmethod
    def open(self, run: TrackedRun, id: str | None) -> str:
        """Begin a run, or go on with the one called `id`; -> its id."""

    @abstractmethod
    def log(self, points: Sequence[Point]) -> None:
        """Hand over rows, in ascending order of their steps."""

    @abstractmethod
    def finish(self, summary: dict[str, str | float], state: State) -> None:
        """Write the summary of a run, and leave it as finished, to be continued, or failed."""

    def where(self) -> str | None:
        """Where an open run can be seen; None if the service does not say."""
        return None

    def holds(self, point: Point) -> bool:
        """Whether the service has this row already. It is asked only for rows that were being handed over when the
        process was killed. An adapter that cannot tell says no, and hands them over again."""
        return False
