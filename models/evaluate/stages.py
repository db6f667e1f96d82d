"""The trainings whose costs are compared, and how that is said: numbers, and a table in the manner of SupMAE's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from models.bench.step_time import Cost
from models.config.recipe import Recipe
from models.method import Method
from models.reporting.render import Block, Table, Text
from pipeline.text import percent


@dataclass(frozen=True, eq=False)
class Stage:
    """One training that something costs: a run, or a recipe with new weights; or its phase on labels alone.

    steps   of its whole length
    passed  share of the pseudo-labels that pass; None where there are none
    told    who says so
    """

    name: str
    recipe: Recipe
    method: Method
    steps: int
    step: int = 0
    passed: float | None = None
    told: Literal["journal", "assumed"] = "assumed"
    labels_only: bool = False

    def hours(self, cost: Cost) -> float:
        """Of the whole length, each step at the measured pace."""
        return self.steps * self.recipe.data.batch / cost.images_per_s / 3600

    def work_s(self, cost: Cost) -> float:
        """Of the whole length, on a clock that other programs do not move (step_time.Turn)."""
        return self.steps * self.recipe.data.batch * cost.work_s


def figures(trained: Cost, looked: Cost, hours: dict[str, list[float]], work_s: dict[str, float]) -> dict[str, float]:
    """The numbers of the run, the first of hours and work, and how many times its work the others' are."""
    own, (own_s, *_) = next(iter(hours.values())), work_s.values()
    values = {"train_images_per_s": trained.images_per_s, "train_spread": trained.spread}
    values |= {"inference_images_per_s": looked.images_per_s, "inference_spread": looked.spread}
    values |= {"train_gflops": trained.gflops, "inference_gflops": looked.gflops, "hours": sum(own)}
    values |= {"memory_gb": trained.memory_gb} if trained.memory_gb is not None else {}
    return values | {f"cost_{name}": each / own_s for name, each in list(work_s.items())[1:]}


def page(
    stages: Sequence[tuple[Stage, Cost]],
    looked: Cost,
    hours: dict[str, list[float]],
    work_s: dict[str, float],
    journal_images_per_s: float,
) -> list[Block]:
    """Each stage's step, the totals in the manner of SupMAE's table, and what the journal says of the run."""
    rows = [
        row(stage.name, cost, passing(stage), f"{stage.steps:,}", f"{stage.hours(cost):,.2f}") for stage, cost in stages
    ]
    rows.append(row("inference", looked, "", "", ""))
    head = ("a step of", "images", "GFLOP an image", "images a second", "spread", "GB", "passed", "steps", "hours")
    own_s = next(iter(work_s.values()))
    totals = [
        (name, " + ".join(f"{h:,.2f}" for h in each), f"{work_s[name] / own_s:.2f}x") for name, each in hours.items()
    ]
    blocks: list[Block] = [Table(head, rows), Table(("trained", "hours", "normalised cost"), totals)]
    said = "Passed: the share of pseudo-labels, by a run's journal on the mean, or as --passed assumes it. "
    said += "Hours are the recipe's length at the measured pace, on one device, without waiting for data or evaluating."
    if journal_images_per_s:
        said += f" The run's own journal: {journal_images_per_s:,.0f} images a second, on the machine that trained it."
    return [*blocks, Text(said)]


def passing(stage: Stage) -> str:
    """The share of pseudo-labels that pass, and who says so."""
    return "" if stage.passed is None else f"{percent(stage.passed)}, {stage.told}"


def pass_rates(stages: Sequence[Stage]) -> dict[str, float]:
    """The pass rates that costs hold for, by who says so: of the run, the first, then of the others by name."""
    return {
        f"passed_{stage.told}" + (f"_{stage.name}" if number else ""): stage.passed
        for number, stage in enumerate(stages)
        if stage.passed is not None
    }


def row(name: str, cost: Cost, *more: str) -> list[str]:
    """One line of the table."""
    memory = "" if cost.memory_gb is None else f"{cost.memory_gb:.1f}"
    pace = f"{cost.images_per_s:,.1f}", percent(cost.spread)
    return [name, f"{cost.images}", f"{cost.gflops:.3g}", *pace, memory, *more]
