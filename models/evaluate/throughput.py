"""What a run costs: images a second, hours of its whole length on this device, FLOPs, memory, and how many times
another's it is (SupMAE's Table 1: MAE 364 + 30 hours, SupMAE 95.9 + 30, so 3.1 times)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch

from models import step_time
from models.bench import where
from models.evaluate.base import Evaluator, Result
from models.load import Loaded, load_run
from models.method import Method, method_class
from models.recipe import Recipe, named
from models.step_time import Cost
from models.training.journal import read
from models.training.render import Block, Table, Text
from models.training.report import speed
from models.training.schedule import Pools, length
from pipeline.errors import InputError
from pipeline.order import shares
from pipeline.task import open_task

CLASSES = 1000  # of a recipe whose data is not here: ImageNet's
CPU_IMAGES, CUDA_IMAGES = 32, 256


@dataclass(frozen=True, eq=False)
class Stage:
    """One training that something costs: a run, or a recipe with new weights; `steps` of its whole length."""

    name: str
    recipe: Recipe
    method: Method
    steps: int
    step: int = 0

    def hours(self, cost: Cost) -> float:
        """Of the whole length, each step at the measured pace."""
        return self.steps * self.recipe.data.batch / cost.images_per_s / 3600

    def work_s(self, cost: Cost) -> float:
        """Of the whole length, on a clock that other programs do not move (step_time.Turn)."""
        return self.steps * self.recipe.data.batch * cost.work_s


@final
@dataclass(frozen=True)
class Throughput(Evaluator):
    """Images a second, hours, FLOPs and memory of training and inference, against other runs or recipes.

    Steps are measured fresh, on noise, beside what the run's own journal says; all stages take turns.
    """

    against: tuple[str, ...] = ()
    """Runs or recipes to compare with; pre-training and what follows it are joined by +, as in mae:in1k_b16+SECOND."""
    then: tuple[str, ...] = ()
    """Runs or recipes that follow this run, such as its fine-tuning: their hours are added to its own."""
    step_images: int | None = None
    """Images of a measured training step; when absent what the recipe puts on a device, up to 256 (32 on a CPU)."""
    train_images: int | None = None
    """Images in the training file, for recipes whose file is not here."""
    train_labelled: int | None = None
    """Those of them with a known label; all when absent."""
    rounds: int = 5
    repeat: int = 3
    """Steps in a row in each round."""

    def run(self, loaded: Loaded) -> Result:
        """Rates in images a second with spreads, GFLOPs an image, hours, memory in GB, and cost_NAME: how many times
        this run's work the other's is: its time on a GPU, its CPU time elsewhere."""
        check(self)
        device = next(loaded.method.parameters()).device
        totals = {loaded.recipe.name: [self.own(loaded), *(self.stage(each, device) for each in self.then)]}
        for other in self.against:
            if other in totals:
                raise InputError(f"--against {other} is the run itself, or there twice; leave it out")
            totals[other] = [self.stage(each, device) for each in other.split("+")]
        stages = [stage for held in totals.values() for stage in held]
        *trained, looked = self.costs(stages, loaded)
        costs = dict(zip(map(id, stages), trained, strict=True))
        hours = {name: [stage.hours(costs[id(stage)]) for stage in held] for name, held in totals.items()}
        work = {name: sum(stage.work_s(costs[id(stage)]) for stage in held) for name, held in totals.items()}
        values = figures(trained[0], looked, hours, work)
        images_per_s, wait_share = speed(read(loaded.path.parent))
        if images_per_s:
            values |= {"journal_images_per_s": images_per_s, "journal_wait_share": wait_share}
        machine = where(str(device)) | {"clock": "CUDA events" if device.type == "cuda" else "wall"}
        machine |= {"rounds": f"{self.rounds} of {self.repeat} steps"}
        return Result(values, page(list(zip(stages, trained, strict=True)), looked, hours, work, images_per_s), machine)

    def own(self, loaded: Loaded) -> Stage:
        """The run itself, on a copy of its weights."""
        try:
            steps = self.steps(loaded.recipe)
        except InputError:
            steps = loaded.step  # its data is elsewhere: what it was trained for so far
        return Stage(loaded.recipe.name, loaded.recipe, copy.deepcopy(loaded.method), steps, loaded.step)

    def stage(self, name: str, device: torch.device) -> Stage:
        """A run's folder or checkpoint, or else a recipe by its name, with new weights."""
        if Path(name).exists():
            return replace(self.own(load_run(Path(name), device)), name=name)
        recipe = named(name)
        steps = self.steps(recipe)
        classes = CLASSES
        if self.here(recipe):
            classes = len(open_task(recipe.data, method_class(recipe).needs(recipe)).classes)
        torch.manual_seed(0)
        method = method_class(recipe)(recipe, classes)
        method.sized(CUDA_IMAGES, CUDA_IMAGES)
        return Stage(name, recipe, method.to(device), steps)

    def steps(self, recipe: Recipe) -> int:
        """Of a recipe's whole length. Raises InputError if that depends on data that is not here."""
        needs = method_class(recipe).needs(recipe)
        batches = shares(recipe.data.batch, recipe.data.ratio, needs.labelled, needs.unlabelled)
        if self.here(recipe):
            pools = open_task(recipe.data, needs).pools
        elif self.train_images:
            labelled = self.train_labelled or self.train_images
            pools = labelled if needs.labelled else 0, self.train_images if needs.unlabelled else 0
        elif recipe.optim.epoch_unit == "step":
            pools = batches
        else:
            raise InputError(
                f"{recipe.name} is as long as its data, and {Path(recipe.data.root) / recipe.data.train} is not here; "
                "say --train-images N (and --train-labelled N)"
            )
        return length(recipe.optim, Pools(*pools, *batches)).total_steps

    def here(self, recipe: Recipe) -> bool:
        """Whether a recipe's training file is on this machine, and is not overruled."""
        return self.train_images is None and (Path(recipe.data.root) / recipe.data.train).exists()

    def costs(self, stages: Sequence[Stage], loaded: Loaded) -> list[Cost]:
        """Of a training step of each stage, and of inference by the run."""
        device = next(loaded.method.parameters()).device
        steps, known = {}, []
        for number, stage in enumerate(stages):
            images = self.images_of(stage.recipe, device)
            classes = max(2, stage.method.encoder.num_classes)
            batch = step_time.synthetic(stage.recipe, images, classes, device)
            run, passed = step_time.training(stage.recipe, stage.method, batch, stage.step)
            gflops = step_time.flops(run, images)
            step_time.compiled(stage.recipe, stage.method, device)
            run()  # optimiser state and compiled graphs are there before memory is measured
            known.append((images, gflops, step_time.peak_gb(run, device), passed))
            steps[str(number)] = run
        look = step_time.inference(loaded.recipe, loaded.method, self.batch, device)
        known.append((self.batch, step_time.flops(look, self.batch), step_time.peak_gb(look, device), lambda: None))
        turns = step_time.rounds(steps | {"inference": look}, self.rounds, self.repeat, device)
        found = zip(turns.values(), known, strict=True)
        return [Cost(images, taken, gflops, memory, passed()) for taken, (images, gflops, memory, passed) in found]

    def images_of(self, recipe: Recipe, device: torch.device) -> int:
        """Images of a measured step."""
        most = CUDA_IMAGES if device.type == "cuda" else CPU_IMAGES
        return self.step_images or min(recipe.run.device_images or most, recipe.data.batch, most)


def figures(trained: Cost, looked: Cost, hours: dict[str, list[float]], work_s: dict[str, float]) -> dict[str, float]:
    """The numbers of the run, the first of hours and work, and how many times its work the others' are."""
    own, (own_s, *_) = next(iter(hours.values())), work_s.values()
    values = {"train_images_per_s": trained.images_per_s, "train_spread": trained.spread}
    values |= {"inference_images_per_s": looked.images_per_s, "inference_spread": looked.spread}
    values |= {"train_gflops": trained.gflops, "inference_gflops": looked.gflops, "hours": sum(own)}
    values |= {"memory_gb": trained.memory_gb} if trained.memory_gb is not None else {}
    values |= {"passed": trained.passed} if trained.passed is not None else {}
    return values | {f"cost_{name}": each / own_s for name, each in list(work_s.items())[1:]}


def page(
    stages: Sequence[tuple[Stage, Cost]],
    looked: Cost,
    hours: dict[str, list[float]],
    work_s: dict[str, float],
    journal_images_per_s: float,
) -> list[Block]:
    """Each stage's step, the totals in the manner of SupMAE's table, and what the journal says of the run."""
    rows = [row(stage.name, cost, f"{stage.steps:,}", f"{stage.hours(cost):,.2f}") for stage, cost in stages]
    rows.append(row("inference", looked, "", ""))
    head = ("a step of", "images", "GFLOP an image", "images a second", "spread", "GB", "passed", "steps", "hours")
    own_s = next(iter(work_s.values()))
    totals = [
        (name, " + ".join(f"{h:,.2f}" for h in each), f"{work_s[name] / own_s:.2f}x") for name, each in hours.items()
    ]
    blocks: list[Block] = [Table(head, rows), Table(("trained", "hours", "normalised cost"), totals)]
    said = "Hours are the recipe's length at the measured pace, on one device, without waiting for data or evaluating."
    if journal_images_per_s:
        said += f" The run's own journal: {journal_images_per_s:,.0f} images a second, on the machine that trained it."
    return [*blocks, Text(said)]


def row(name: str, cost: Cost, *more: str) -> list[str]:
    """One line of the table."""
    memory = "" if cost.memory_gb is None else f"{cost.memory_gb:.1f}"
    passed = "" if cost.passed is None else f"{cost.passed:.0%}"
    pace = f"{cost.images_per_s:,.1f}", f"{cost.spread:.0%}"
    return [name, f"{cost.images}", f"{cost.gflops:.3g}", *pace, memory, passed, *more]


def check(asked: Throughput) -> None:
    """Raise InputError for numbers that mean nothing."""
    given = {"batch": asked.batch, "rounds": asked.rounds, "repeat": asked.repeat, "step-images": asked.step_images,
             "train-images": asked.train_images, "train-labelled": asked.train_labelled}  # fmt: skip
    for name, value in given.items():
        if value is not None and value < 1:
            raise InputError(f"--{name}: expected 1 or more, got {value}")
    if asked.train_labelled and asked.train_labelled > (asked.train_images or 0):
        raise InputError(f"--train-labelled {asked.train_labelled}: expected --train-images of as many or more")
