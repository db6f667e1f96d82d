"""Trackio: a database on this disk (TRACKIO_DIR), or a Space (TRACKIO_SPACE_ID) with Hugging Face's own token."""

import os
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar, final

from models.tracking.tracker import PROJECT, Point, State, TrackedRun, Tracker


@final
class Trackio(Tracker):
    """A run of Trackio, found again by its name, which therefore ends in an id of its own."""

    settle_s: ClassVar[float] = 1.5
    """Its own thread writes what it was given every half second."""

    def __init__(self) -> None:
        self._run: Any = None
        self._last = 0

    def open(self, run: TrackedRun, id: str | None) -> str:
        """Begin or resume a run."""
        import trackio

        name = id or f"{run.name} {uuid.uuid4().hex[:8]}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=name,
            group=run.group,
            resume="allow",
            config=run.config,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return name

    def log(self, points: Sequence[Point]) -> None:
        """Hand over rows."""
        for point in points:
            self._run.log(point.metrics, step=point.step)
            self._last = point.step

    def finish(self, summary: dict[str, str | float], state: State) -> None:
        """Write the summary of a finished run as values of its last step, since Trackio has no other place for it."""
        if state == "finished":
            self._run.log({f"summary/{name}": value for name, value in summary.items()}, step=self._last)
        self._run.finish()
