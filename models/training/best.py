"""Keep best.pt beside last.pt, and say when a run has stopped getting better: both by one value of val."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import final

from models.checkpoint import checksummed, save_load
from models.config.recipe import Run
from models.distributed.process_group import World, from_main
from models.evaluate.result_columns import LOWER
from models.optim.schedule import RunLength
from models.records import metrics
from models.records.run_folder import BEST
from pipeline.errors import InputError
from pipeline.text import count, measured, some


@final
class BestValue:
    """The best of one value of val so far, at `step`, and how many evaluations in a row were not better.

    best = BestValue("top1", stop_after=3, ends=length.ends)
    best.add(300, {"top1": 0.8})        # True: it is better than all before
    best.exhausted(300)                 # whether the last 3 evaluations were not

    Of equal values the first is the best; one that is missing or not finite is never better. More is better, but for
    names that hold loss, error and the like (models.evaluate.result_columns). `ends` are the steps at which the run and
    each of its extensions end: in an extension, which begins with another learning rate, the row is counted anew.

    It is a function of the journal's rows and adds no state to checkpoints: a run that is resumed counts as an
    uninterrupted one.
    """

    def __init__(self, name: str, *, stop_after: int | None = None, ends: Sequence[int] = ()) -> None:
        self.name, self.stop_after, self.ends = name, stop_after, ends
        self.step: int | None = None
        self.value: float | None = None
        self.without, self.last = 0, 0
        self.lower = any(each in name for each in LOWER)

    def add(self, step: int, values: Mapping[str, float | None]) -> bool:
        """Count the evaluation of val after `step` steps, unless it was counted before; -> whether it is the best so
        far."""
        if step == self.last:
            return False
        if bisect_left(self.ends, step) != bisect_left(self.ends, self.last):
            self.without = 0
        self.last, value = step, values.get(self.name)
        if value is None or not math.isfinite(value) or not self._better(value):
            self.without += 1
            return False
        self.step, self.value, self.without = step, value, 0
        return True

    def add_rows(self, rows: Iterable[dict]) -> None:
        """Count the evaluations of val in rows of the journal."""
        for row in rows:
            if row.get("evaluation") == "val":
                self.add(row["step"], row["values"])

    def exhausted(self, step: int) -> bool:
        """Whether a run that has done `step` steps has to end: `stop_after` evaluations were not better, all of the run
        or of the extension to which its next step belongs."""
        current = bisect_left(self.ends, self.last) == bisect_right(self.ends, step)
        return self.stop_after is not None and self.without >= self.stop_after and current

    def why(self) -> str:
        """Return why the run ended early, in words."""
        return f"no better val {self.name} in {count(self.without, 'evaluation')}"

    def describe(self) -> str | None:
        """Describe the best value and its step in a line; None before there is one."""
        if self.step is None or self.value is None:
            return None
        return f"best val {self.name} {measured(self.name, self.value)} after step {self.step:,}"

    def _better(self, value: float) -> bool:
        return self.value is None or (value < self.value if self.lower else value > self.value)


def open_best(
    run: Run, folder: Path, length: RunLength, world: World, step: int
) -> tuple[BestValue | None, str | None]:
    """The best value of a run that goes on after `step` steps, by the rows of its journal, and a note if best.pt is
    lost; None where the recipe asks for none. A collective call."""
    if run.best is None:
        return None, None
    best = BestValue(run.best, stop_after=run.stop_after, ends=length.ends)
    rows = from_main(metrics.read(folder) if world.main else None, world)
    if step and not rows and (folder / BEST).exists():
        raise InputError(
            f"{folder} holds {BEST} and no journal, which says how good it is; restore {metrics.FILE}, or move {BEST} "
            "away to begin anew"
        )
    best.add_rows(rows)
    return best, restore_best(folder, best, step) if world.main else None


def check_best(name: str, names: Sequence[str]) -> None:
    """Raise InputError unless `name` is among the values of val, `names`."""
    if name not in names:
        raise InputError(
            f"run.best is {name}, expected a value of val: {some(names, 8) or 'there is none'}; choose one, or have "
            "it evaluated, too (--run.knn, --run.probe, --run.judge both)"
        )


def restore_best(folder: Path, best: BestValue, step: int) -> str | None:
    """Make best.pt the checkpoint of `best.step`, before a run goes on after `step` steps; -> a note if it is lost.

    A kill between a checkpoint and its second name best.pt is made good. A best.pt that is damaged, or of a step that
    is done again because the checkpoints after it were lost, is removed.
    """
    path = folder / BEST
    if path.exists() and best.step is not None and _step_of(path) == best.step:
        return None
    if best.step == step:
        save_load.keep_best(folder)
        return None
    path.unlink(missing_ok=True)
    if best.step is None:
        return None
    return f"{path} is lost or not that of the {best.describe()}; the next better value brings it back"


def _step_of(path: Path) -> int | None:
    try:
        return checksummed.read(path).get("step")
    except InputError:
        return None
