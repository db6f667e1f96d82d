"""Cost of whole trainings, in hours and in work, and the table that compares them as SupMAE's Table 1 does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from models.bench.step_time import StepCost
from models.config.recipe import Recipe
from models.method import Method
from models.reporting.render import Block, Table, Text
from pipeline.text import percent


@final
@dataclass(frozen=True, eq=False)
class Stage:
    """One training whose cost is measured: a run, a recipe with new weights, or the phase on labels alone of one.

    steps        of its whole length
    passed       share of the pseudo-labels that pass; None where there are none
    passed_from  where that share is from: the run's journal, or the flag --passed
    """

    name: str
    recipe: Recipe
    method: Method
    steps: int
    step: int = 0
    passed: float | None = None
    passed_from: Literal["journal", "assumed"] = "assumed"
    labels_only: bool = False

    def hours(self, cost: StepCost) -> float:
        """Compute the hours of the whole length, each step at the measured pace."""
        return self.steps * self.recipe.data.batch / cost.images_per_s / 3600

    def work_s(self, cost: StepCost) -> float:
        """Compute the seconds of work of the whole length (timing.StepTime), which other programs hardly change."""
        return self.steps * self.recipe.data.batch * cost.work_s


def figures(
    training: StepCost, inference: StepCost, hours: dict[str, list[float]], work_s: dict[str, float]
) -> dict[str, float]:
    """Return the numbers of the run, which is the first of hours and work, and the others' work as multiples of its."""
    own, (own_s, *_) = next(iter(hours.values())), work_s.values()
    values = {"train_images_per_s": training.images_per_s, "train_spread": training.spread}
    values |= {"inference_images_per_s": inference.images_per_s, "inference_spread": inference.spread}
    values |= {"train_gflops": training.gflops, "inference_gflops": inference.gflops, "hours": sum(own)}
    values |= {"memory_gb": training.memory_gb} if training.memory_gb is not None else {}
    return values | {f"cost_{name}": each / own_s for name, each in list(work_s.items())[1:]}


def page(
    stages: Sequence[tuple[Stage, StepCost]],
    inference: StepCost,
    hours: dict[str, list[float]],
    work_s: dict[str, float],
    journal_images_per_s: float,
) -> list[Block]:
    """Show each stage's step, the totals in the manner of SupMAE's table, and the speed in the run's own journal."""
    rows = [
        row(stage.name, cost, passing(stage), f"{stage.steps:,}", f"{stage.hours(cost):,.2f}") for stage, cost in stages
    ]
    rows.append(row("inference", inference, "", "", ""))
    head = ("a step of", "images", "GFLOP an image", "images a second", "spread", "GB", "passed", "steps", "hours")
    own_s = next(iter(work_s.values()))
    totals = [
        (name, " + ".join(f"{h:,.2f}" for h in each), f"{work_s[name] / own_s:.2f}x") for name, each in hours.items()
    ]
    blocks: list[Block] = [Table(head, rows), Table(("trained", "hours", "normalised cost"), totals)]
    note = "Passed: the share of pseudo-labels, by a run's journal on the mean, or as --passed assumes it. "
    note += "Hours are the recipe's length at the measured pace, on one device, without waiting for data or evaluating."
    if journal_images_per_s:
        note += f" The run's own journal: {journal_images_per_s:,.0f} images a second, on the machine that trained it."
    return [*blocks, Text(note)]


def passing(stage: Stage) -> str:
    """Format the share of pseudo-labels that pass, and where it is from."""
    return "" if stage.passed is None else f"{percent(stage.passed)}, {stage.passed_from}"


def pass_rates(stages: Sequence[Stage]) -> dict[str, float]:
    """Return the pass rates that the costs hold for: of the run, which is the first, then of the others by name."""
    return {
        f"passed_{stage.passed_from}" + (f"_{stage.name}" if number else ""): stage.passed
        for number, stage in enumerate(stages)
        if stage.passed is not None
    }


def row(name: str, cost: StepCost, *more: str) -> list[str]:
    """Format one line of the table of steps."""
    memory = "" if cost.memory_gb is None else f"{cost.memory_gb:.1f}"
    pace = f"{cost.images_per_s:,.1f}", percent(cost.spread)
    return [name, f"{cost.images}", f"{cost.gflops:.3g}", *pace, memory, *more]
