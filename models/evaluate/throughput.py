"""Cost of a run: images a second, hours of its whole length on this device, FLOPs and memory, and its multiples.

As in SupMAE's Table 1: MAE 364 + 30 hours, SupMAE 95.9 + 30, so MAE costs 3.1 times as much.
"""

import copy
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, final

import torch

from models.bench import step_time
from models.bench.step_time import StepCost
from models.bench.synthetic import synthetic_batch
from models.bench.timing import interleaved, machine
from models.config.extensions import extensions_of
from models.config.recipe import Recipe
from models.config.resolve import named, resolve
from models.evaluate.evaluator import Evaluator, Result
from models.evaluate.training_cost import Stage, figures, page, pass_rates
from models.factory import method_class
from models.load import Loaded, load_run
from models.optim.schedule import Pools, RunLength, run_length
from models.records.metrics import read
from models.reporting.report import speed
from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, SHARE, check_bounds
from pipeline.sampling.sampler import shares
from pipeline.train_data import open_train_data

CLASSES = 1000  # of a recipe whose data is not here: ImageNet's
CPU_IMAGES, CUDA_IMAGES = 32, 256


@final
@dataclass(frozen=True)
class Throughput(Evaluator):
    """Images a second, hours, FLOPs and memory of training and inference, against other runs or recipes.

    Steps are timed anew, on random images, and all stages take turns. The run's own journal is shown beside them.
    """

    against: tuple[str, ...] = ()
    """Runs or recipes to compare with; pre-training and what follows it are joined by +, as in mae:in1k_b16+SECOND. In
    quotes a recipe may have flags: "mae:in1k_b16 --optim.epochs 1600 + finetune:in1k_b16"."""
    then: tuple[str, ...] = ()
    """Runs or recipes that follow this run, such as its fine-tuning: their hours are added to its own."""
    step_images: Annotated[int | None, AT_LEAST_1] = None
    """Images of a measured training step; when absent what the recipe puts on a device, up to 256 (32 on a CPU)."""
    train_images: Annotated[int | None, AT_LEAST_1] = None
    """Images in the training file, for recipes whose file is not here."""
    train_labelled: Annotated[int | None, AT_LEAST_1] = None
    """Those of them with a known label; all when absent."""
    passed: Annotated[float, SHARE] = 1.0
    """Share of the pseudo-labels that pass where no journal has it; 1 is the most that a step can cost."""
    rounds: Annotated[int, AT_LEAST_1] = 5
    repeat: Annotated[int, AT_LEAST_1] = 3
    """Steps in a row in each round."""

    def run(self, loaded: Loaded) -> Result:
        """Measure rates in images a second with spreads, GFLOPs an image, hours, memory in GB, and cost_NAME: the other
        training's work as a multiple of this run's, which is time on a GPU and CPU time elsewhere."""
        check_bounds(self, "--")
        if self.train_labelled and self.train_labelled > (self.train_images or 0):
            raise InputError(f"--train-labelled {self.train_labelled}: expected --train-images of as many or more")
        device = next(loaded.method.parameters()).device
        then = [stage for each in self.then for stage in self.stages(each, device)]
        totals = {loaded.recipe.name: [*self.own(loaded), *then]}
        for other in self.against:
            if other in totals:
                raise InputError(f"--against {other} is the run itself, or there twice; leave it out")
            totals[other] = [stage for each in joined(other) for stage in self.stages(each, device)]
        stages = [stage for held in totals.values() for stage in held]
        *trained, inference = self.costs(stages, loaded)
        costs = dict(zip(map(id, stages), trained, strict=True))
        hours = {name: [stage.hours(costs[id(stage)]) for stage in held] for name, held in totals.items()}
        work = {name: sum(stage.work_s(costs[id(stage)]) for stage in held) for name, held in totals.items()}
        values = figures(trained[0], inference, hours, work) | pass_rates(stages)
        images_per_s, wait_share = speed(read(loaded.path.parent))
        if images_per_s:
            values |= {"journal_images_per_s": images_per_s, "journal_wait_share": wait_share}
        described = machine(str(device)) | {"clock": "CUDA events" if device.type == "cuda" else "wall"}
        described |= {"rounds": f"{self.rounds} of {self.repeat} steps"}
        blocks = page(list(zip(stages, trained, strict=True)), inference, hours, work, images_per_s)
        return Result(values, blocks, described)

    def own(self, loaded: Loaded, name: str | None = None) -> list[Stage]:
        """Return the stages of a run, on a copy of its weights."""
        rows = [row for row in read(loaded.path.parent) if "timing" in row]
        passed = [row["pseudo"]["passed"] for row in rows if "pseudo" in row]
        try:
            whole = self.length(loaded.recipe)
            steps, labels_only = whole.total_steps, whole.labels_only_steps
        except InputError:  # its data is elsewhere, so its length is unknown: the steps that it was trained for so far
            before = [row["step"] for row in rows if passed and "pseudo" not in row]
            steps, labels_only = loaded.step, max(before, default=0)
        stage = Stage(name or loaded.recipe.name, loaded.recipe, copy.deepcopy(loaded.method), steps, loaded.step)
        return self.phases(
            replace(stage, passed=fmean(passed), passed_from="journal") if passed else stage, labels_only
        )

    def stages(self, name: str, device: torch.device) -> list[Stage]:
        """Return the stages of a run by its folder or checkpoint, or of a recipe by its name and flags, with new
        weights."""
        if Path(name).exists():
            return self.own(load_run(Path(name), device), name)
        recipe = asked(name)
        whole = self.length(recipe)
        classes = CLASSES
        if self.here(recipe):
            classes = len(open_train_data(recipe.data, method_class(recipe).needs(recipe)).classes)
        torch.manual_seed(0)
        method = method_class(recipe)(recipe, classes)
        method.set_dataset_size(CUDA_IMAGES, CUDA_IMAGES)
        method.set_label_counts(torch.full((classes,), CUDA_IMAGES))
        return self.phases(Stage(name, recipe, method.to(device), whole.total_steps), whole.labels_only_steps)

    def phases(self, stage: Stage, labels_only: int) -> list[Stage]:
        """Return a stage, with the assumed pass rate if it has none, and apart from it its steps on labels alone."""
        needs = method_class(stage.recipe).needs(stage.recipe)
        if needs.strong and stage.passed is None:
            stage = replace(stage, passed=self.passed)
        if not labels_only or not needs.unlabelled:
            return [stage]
        name, method = f"{stage.name}, labels only", copy.deepcopy(stage.method)
        first = Stage(name, stage.recipe, method, labels_only, labels_only=True)
        return [replace(stage, steps=stage.steps - labels_only), first]

    def length(self, recipe: Recipe) -> RunLength:
        """Compute the length of a recipe. Raises InputError if that depends on data that is not here."""
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
        return run_length(recipe.optim, Pools(*pools, *batches), extensions_of(recipe.run))

    def here(self, recipe: Recipe) -> bool:
        """Say whether a recipe's training file is on this machine, and no flag replaces its size."""
        return self.train_images is None and (Path(recipe.data.root) / recipe.data.train).exists()

    def costs(self, stages: Sequence[Stage], loaded: Loaded) -> list[StepCost]:
        """Measure a training step of each stage, and last the inference of the run."""
        device = next(loaded.method.parameters()).device
        steps, known = {}, []
        for number, stage in enumerate(stages):
            images = self.images_of(stage.recipe, device)
            classes = max(2, stage.method.encoder.num_classes)
            batch = synthetic_batch(stage.recipe, images, classes, device, labels_only=stage.labels_only)
            if stage.passed is not None:
                step_time.fix_pass_rate(stage.method, stage.passed)
            run = step_time.training_step(stage.recipe, stage.method, batch, stage.step)
            gflops = step_time.gflops_per_image(run, images)
            if stage.passed is not None:
                step_time.fix_pass_rate(stage.method, stage.passed, varying=True)
            step_time.compile_as_training(stage.recipe, stage.method, device)
            run()  # optimiser state and compiled graphs are there before memory is measured
            known.append((images, gflops, step_time.peak_gb(run, device)))
            steps[str(number)] = run
        inference = step_time.inference_step(loaded.recipe, loaded.method, self.batch, device)
        gflops = step_time.gflops_per_image(inference, self.batch)
        known.append((self.batch, gflops, step_time.peak_gb(inference, device)))
        times = interleaved(steps | {"inference": inference}, self.rounds, self.repeat, device)
        found = zip(times.values(), known, strict=True)
        return [StepCost(images, taken, gflops, memory) for taken, (images, gflops, memory) in found]

    def images_of(self, recipe: Recipe, device: torch.device) -> int:
        """Choose the number of images of a measured step."""
        most = CUDA_IMAGES if device.type == "cuda" else CPU_IMAGES
        return self.step_images or min(recipe.run.images_at_once or most, recipe.data.batch, most)


def joined(names: str) -> list[str]:
    """Split "FIRST + SECOND" into its names, each with its flags; the + of a number such as 1e+3 joins nothing."""
    return [each.strip() for each in re.split(r"(?<![0-9][eE])\+|\+(?![0-9])", names)]


def asked(name: str) -> Recipe:
    """The recipe called `name`, with the flags that may follow the name.

    asked("mae:in1k_b16 --optim.epochs 1600")

    Raises InputError for an unknown name or flag, an open quote, and flags of a run, whose settings are its own.
    """
    try:
        first, *flags = shlex.split(name) or [name]
    except ValueError as error:
        raise InputError(f"{name!r} is no recipe with flags ({error}); close the quote, or leave it out") from None
    if not flags:
        return named(first)
    if Path(first).exists():
        raise InputError(
            f"{first} is a run, and was trained with its own settings; give flags to a recipe's name alone"
        )
    return resolve(first, flags)
