"""What a run costs: images a second, hours of its whole length on this device, FLOPs, memory, and how many times
another's it is (SupMAE's Table 1: MAE 364 + 30 hours, SupMAE 95.9 + 30, so 3.1 times)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import final

import torch

from models.bench import step_time
from models.bench.packed_step import where
from models.bench.step_time import Cost
from models.config.recipe import Recipe
from models.config.resolve import named
from models.evaluate.base import Evaluator, Result
from models.evaluate.stages import Stage, figures, page, pass_rates
from models.load import Loaded, load_run
from models.factory import method_class
from models.optim.schedule import Pools, RunLength, run_length
from models.records.metrics import read
from models.reporting.report import speed
from pipeline.errors import InputError
from pipeline.sampling.sampler import shares
from pipeline.train_data import open_train_data

CLASSES = 1000  # of a recipe whose data is not here: ImageNet's
CPU_IMAGES, CUDA_IMAGES = 32, 256


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
    passed: float = 1.0
    """Share of the pseudo-labels that pass where no journal tells; 1 is the most that a step can cost."""
    rounds: int = 5
    repeat: int = 3
    """Steps in a row in each round."""

    def run(self, loaded: Loaded) -> Result:
        """Rates in images a second with spreads, GFLOPs an image, hours, memory in GB, and cost_NAME: how many times
        this run's work the other's is: its time on a GPU, its CPU time elsewhere."""
        check(self)
        device = next(loaded.method.parameters()).device
        then = [stage for each in self.then for stage in self.stages(each, device)]
        totals = {loaded.recipe.name: [*self.own(loaded), *then]}
        for other in self.against:
            if other in totals:
                raise InputError(f"--against {other} is the run itself, or there twice; leave it out")
            totals[other] = [stage for each in other.split("+") for stage in self.stages(each, device)]
        stages = [stage for held in totals.values() for stage in held]
        *trained, looked = self.costs(stages, loaded)
        costs = dict(zip(map(id, stages), trained, strict=True))
        hours = {name: [stage.hours(costs[id(stage)]) for stage in held] for name, held in totals.items()}
        work = {name: sum(stage.work_s(costs[id(stage)]) for stage in held) for name, held in totals.items()}
        values = figures(trained[0], looked, hours, work) | pass_rates(stages)
        images_per_s, wait_share = speed(read(loaded.path.parent))
        if images_per_s:
            values |= {"journal_images_per_s": images_per_s, "journal_wait_share": wait_share}
        machine = where(str(device)) | {"clock": "CUDA events" if device.type == "cuda" else "wall"}
        machine |= {"rounds": f"{self.rounds} of {self.repeat} steps"}
        return Result(values, page(list(zip(stages, trained, strict=True)), looked, hours, work, images_per_s), machine)

    def own(self, loaded: Loaded, name: str | None = None) -> list[Stage]:
        """The run itself, on a copy of its weights."""
        rows = [row for row in read(loaded.path.parent) if "timing" in row]
        passed = [row["pseudo"]["passed"] for row in rows if "pseudo" in row]
        try:
            whole = self.length(loaded.recipe)
            steps, labels_only = whole.total_steps, whole.labels_only_steps
        except InputError:  # its data is elsewhere: what it was trained for so far
            before = [row["step"] for row in rows if passed and "pseudo" not in row]
            steps, labels_only = loaded.step, max(before, default=0)
        stage = Stage(name or loaded.recipe.name, loaded.recipe, copy.deepcopy(loaded.method), steps, loaded.step)
        return self.phases(replace(stage, passed=fmean(passed), told="journal") if passed else stage, labels_only)

    def stages(self, name: str, device: torch.device) -> list[Stage]:
        """A run's folder or checkpoint, or else a recipe by its name, with new weights."""
        if Path(name).exists():
            return self.own(load_run(Path(name), device), name)
        recipe = named(name)
        whole = self.length(recipe)
        classes = CLASSES
        if self.here(recipe):
            classes = len(open_train_data(recipe.data, method_class(recipe).needs(recipe)).classes)
        torch.manual_seed(0)
        method = method_class(recipe)(recipe, classes)
        method.set_dataset_size(CUDA_IMAGES, CUDA_IMAGES)
        return self.phases(Stage(name, recipe, method.to(device), whole.total_steps), whole.labels_only_steps)

    def phases(self, stage: Stage, labels_only: int) -> list[Stage]:
        """A stage, which is given a pass rate if it lacks one, and apart from it its first steps on labels alone."""
        needs = method_class(stage.recipe).needs(stage.recipe)
        if needs.strong and stage.passed is None:
            stage = replace(stage, passed=self.passed)
        if not labels_only or not needs.unlabelled:
            return [stage]
        name, method = f"{stage.name}, labels only", copy.deepcopy(stage.method)
        first = Stage(name, stage.recipe, method, labels_only, labels_only=True)
        return [replace(stage, steps=stage.steps - labels_only), first]

    def length(self, recipe: Recipe) -> RunLength:
        """Of a recipe. Raises InputError if that depends on data that is not here."""
        needs = method_class(recipe).needs(recipe)
        batches = shares(recipe.data.batch, recipe.data.ratio, needs.labelled, needs.unlabelled)
        if self.here(recipe):
            pools = open_train_data(recipe.data, needs).pools
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
        return run_length(recipe.optim, Pools(*pools, *batches))

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
            batch = step_time.synthetic(stage.recipe, images, classes, device, labels_only=stage.labels_only)
            if stage.passed is not None:
                step_time.let_pass(stage.method, stage.passed)
            run = step_time.training(stage.recipe, stage.method, batch, stage.step)
            gflops = step_time.flops(run, images)
            step_time.compiled(stage.recipe, stage.method, device)
            run()  # optimiser state and compiled graphs are there before memory is measured
            known.append((images, gflops, step_time.peak_gb(run, device)))
            steps[str(number)] = run
        look = step_time.inference(loaded.recipe, loaded.method, self.batch, device)
        known.append((self.batch, step_time.flops(look, self.batch), step_time.peak_gb(look, device)))
        turns = step_time.rounds(steps | {"inference": look}, self.rounds, self.repeat, device)
        found = zip(turns.values(), known, strict=True)
        return [Cost(images, taken, gflops, memory) for taken, (images, gflops, memory) in found]

    def images_of(self, recipe: Recipe, device: torch.device) -> int:
        """Images of a measured step."""
        most = CUDA_IMAGES if device.type == "cuda" else CPU_IMAGES
        return self.step_images or min(recipe.run.device_images or most, recipe.data.batch, most)


def check(asked: Throughput) -> None:
    """Raise InputError for numbers that mean nothing."""
    given = {"batch": asked.batch, "rounds": asked.rounds, "repeat": asked.repeat, "step-images": asked.step_images,
             "train-images": asked.train_images, "train-labelled": asked.train_labelled}  # fmt: skip
    for name, value in given.items():
        if value is not None and value < 1:
            raise InputError(f"--{name}: expected 1 or more, got {value}")
    if not 0 <= asked.passed <= 1:
        raise InputError(f"--passed: expected a share from 0 to 1, got {asked.passed:g}")
    if asked.train_labelled and asked.train_labelled > (asked.train_images or 0):
        raise InputError(f"--train-labelled {asked.train_labelled}: expected --train-images of as many or more")
