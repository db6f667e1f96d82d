"""Weights & Biases: WANDB_API_KEY, WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE=offline are its own settings."""

import os
import uuid
from collections.abc import Sequence
from typing import Any, final

from models.tracking.tracker import PROJECT, Point, State, TrackedRun, Tracker
from pipeline.errors import InputError


@final
class Wandb(Tracker):
    """A run of Weights & Biases; with WANDB_MODE=offline a folder for `wandb sync`, in the run folder.

    Neither code nor the state of git nor what is printed is sent.
    """

    def __init__(self) -> None:
        self._run: Any = None

    def open(self, run: TrackedRun, id: str | None) -> str:
        """Begin or resume a run. Raises InputError if there is no API key, for which wandb would ask at a terminal."""
        import wandb

        if wandb.setup().settings.mode in ("online", "shared", "run") and not wandb.login(prompt=False):
            raise InputError("no API key; run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=id or uuid.uuid4().hex[:12],
            resume="allow",
            name=run.name,
            group=run.group,
            dir=os.environ.get("WANDB_DIR", str(run.files)),
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        self._run.config.update(run.config, allow_val_change=True)
        self._run.define_metric("*", step_metric="step")
        return self._run.id

    def log(self, points: Sequence[Point]) -> None:
        """Hand over rows. wandb refuses a step before its latest one, as of an evaluation after the row of its step was
        sent by an earlier process: such a row gets the latest, and `step`, over which charts are drawn, is right."""
        for point in points:
            self._run.log({**point.metrics, "step": point.step}, step=max(point.step, self._run.step))

    def finish(self, summary: dict[str, str | float], state: State) -> None:
        """Write the summary; a run to be continued is marked as preempting."""
        self._run.summary.update(summary)
        if state in ("running", "stopped"):
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if state == "finished" else 1)

    def where(self) -> str | None:
        """The page of the run, or its folder if it is offline."""
        return self._run.dir if self._run.offline else self._run.url
