"""Before the first step: find how many images fit on the device at once, and compile what the run will call.

Trials run on a copy of the method, on random images of the run's shapes; weights, statistics and batches of the run
stay as they are.
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import final

import torch

from models.bench.step_time import fix_pass_rate
from models.bench.synthetic import random_batch
from models.config.recipe import Recipe
from models.distributed.compile import set_compiler
from models.distributed.micro_batches import micro_batches
from models.distributed.process_group import World, any_rank
from models.full_precision import full_precision
from models.method import Method, StepInfo
from models.optim.schedule import RunLength
from pipeline.errors import InputError
from pipeline.spec import both_sides
from pipeline.text import count

PASSED = 1.0, 0.6, None, 0.0
"""Shares of pseudo-labels that pass in turn; None is one image. A graph is made for each number 0, 1 and "more", and
the second of two numbers above 1 makes the last one valid for all."""
LEAST_TERAFLOP = 1.0
"""Training FLOPs of a GPU's share of a step, in units of 10^12, below which a GPU is said to wait for its host: about
1,600 kernels a step, at some 5 µs each to launch, while a data-centre GPU computes 1.0 of them in 2 to 4 ms."""


@final
@dataclass(frozen=True, eq=False)
class Trial:
    """A copy of a run's method, for steps that leave no trace in the run.

    trial = Trial(method, recipe, autocast, classes=10, device=device)
    trial.step(16, 112, labels_only=False, passed=1.0)
    """

    method: Method
    recipe: Recipe
    autocast: AbstractContextManager
    classes: int
    device: torch.device

    def step(self, labelled: int, unlabelled: int, *, labels_only: bool, passed: float) -> None:
        """Run forward and backward of a micro-batch in which the share `passed` of the pseudo-labels passes."""
        images = (labelled + unlabelled, 0) if labels_only else (labelled, unlabelled)
        batch = random_batch(self.recipe, *images, self.classes, self.device)
        fix_pass_rate(self.method, passed)
        with self.autocast:
            loss = self.method(batch, StepInfo(0, labels_only))
        loss.total.backward()
        self.method.zero_grad(set_to_none=True)

    def evaluate(self, images: int) -> None:
        """Run the forward pass of an evaluation."""
        if self.method.has_classifier:
            batch = random_batch(self.recipe, images, 0, self.classes, self.device)
            assert batch.labelled is not None
            with torch.inference_mode(), full_precision(self.device):
                self.method.logits(batch.labelled.images)


def trial_of(
    method: Method, recipe: Recipe, autocast: AbstractContextManager, classes: int, *, compiled: bool
) -> Trial:
    """Copy a method for trials; without `compiled` its blocks run eagerly."""
    copied = copy.deepcopy(method)
    if not compiled:
        set_compiler(copied, None)
    return Trial(copied, recipe, autocast, classes, next(method.parameters()).device)


def fitting(
    trial: Trial, batches: Sequence[int], length: RunLength, world: World, known: int | None
) -> tuple[int, str]:
    """Find the fewest micro-batches of a step that fit, by running out of memory first; -> their number, and a line.

    batches  labelled and unlabelled images of a step over all ranks
    known    images at once that fitted at an earlier start of the run: tried first, so that it goes on as it was

    A collective call. Raises InputError if not even the smallest micro-batch fits.
    """
    limit, failed = known, list[int]()
    while True:
        try:
            micro = micro_batches(batches, world.size, limit)
        except InputError as error:
            raise InputError(
                f"run.device_images auto: not even {count(failed[-1], 'image')} at once fit on {trial.device}, and the "
                f"step divides no further; choose a smaller data.size or encoder, or --run.shard and a number"
            ) from error
        images = [part // world.size // micro for part in batches]
        if not any_rank(not _fits(trial, *images, labels_only=length.labels_only_steps >= length.total_steps), world):
            return micro, _found(sum(images), micro, failed, trial.device)
        failed.append(sum(images))
        limit = sum(images) // 2


def _fits(trial: Trial, labelled: int, unlabelled: int, *, labels_only: bool) -> bool:
    if trial.device.type == "cpu":
        return True  # a CPU's memory is the machine's: it would swap, and not say so
    trained = [each for each in trial.method.parameters() if each.requires_grad]
    spare = 2 * sum(each.numel() for each in trained) - sum(each.numel() for each in trial.method.parameters())
    try:
        moments = torch.empty(max(0, spare), device=trial.device)  # the copy itself stands for the rest of them
        trial.step(labelled, unlabelled, labels_only=labels_only, passed=1.0)
        del moments
    except torch.OutOfMemoryError:
        trial.method.zero_grad(set_to_none=True)
        return False
    finally:
        if trial.device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def _found(images: int, micro: int, failed: Sequence[int], device: torch.device) -> str:
    if device.type == "cpu":
        return f"run.device_images auto: {images} images at once, as a CPU sets no limit"
    tried = f"{', '.join(map(str, failed))} do not fit, " if failed else ""
    return f"run.device_images auto: {tried}{images} do: {count(micro, 'micro-batch')} a step"


def compile_ahead(trial: Trial, labelled: int, unlabelled: int, length: RunLength, evaluated: int) -> Iterator[str]:
    """Call every variant of a step once, so that it is compiled before the first; -> a line as each is done.

    labelled, unlabelled  images of a micro-batch
    evaluated             images of an evaluation's batch
    """
    variants: list[tuple[str, bool, float]] = []
    if length.labels_only_steps:
        variants.append(("labels only", True, 1.0))
    if length.labels_only_steps < length.total_steps:
        strong = unlabelled if type(trial.method).needs(trial.recipe).strong else 0
        shares = [1 / strong if share is None else share for share in PASSED] if strong else [1.0]
        variants += [(f"{round(share * strong)} passed" if strong else "a step", False, share) for share in shares]
    for number, (name, labels_only, passed) in enumerate(variants, 1):
        began = time.perf_counter()
        trial.step(labelled, unlabelled, labels_only=labels_only, passed=passed)
        _wait(trial.device)
        yield f"compiled {number} of {len(variants) + 1}: {name}, {time.perf_counter() - began:.0f} s"
    began = time.perf_counter()
    trial.evaluate(evaluated)
    _wait(trial.device)
    yield f"compiled {len(variants) + 1} of {len(variants) + 1}: evaluation, {time.perf_counter() - began:.0f} s"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def too_small_to_fill(method: Method, recipe: Recipe, images: int, device: torch.device) -> str | None:
    """A line where a GPU's share of a step is so little work that it waits for its host; None otherwise.

    images  of all parts of a step on this device
    """
    if device.type != "cuda":
        return None
    weights = sum(each.numel() for each in method.encoder.parameters())
    tokens = images * math.prod(side // recipe.encoder.patch for side in both_sides(recipe.data.size))
    teraflop = 6 * weights * tokens / 1e12
    if teraflop >= LEAST_TERAFLOP:
        return None
    return (
        f"a step on this GPU is about {teraflop:.2g} TFLOP ({images} images): it may wait for its host, which launches "
        "the kernels; a larger data.batch, or fewer GPUs, uses it better"
    )
