"""Measure a training step on batches of noise: images a second with one number of pseudo-labels that pass, and with
another number in each step; time of GPU and host, kernels, TFLOP/s and memory.

step = Stepper(recipe, method)
rates = measured(step, batch, flops_per_image(step, batch), seconds=1.5)
"""

import gc
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, final

import torch

from models.bench.flops import count as count_flops
from models.bench.step_time import fix_pass_rate, update
from models.config.recipe import Recipe
from models.factory import method_class
from models.method import Method, StepInfo
from models.optim.build import build_optimiser
from pipeline.batch import Batch

PASSED = 0.5
"""Share of the pseudo-labels that pass: of each step's, or on average where their number varies."""
WARM_UP = 3
"""Steps before those that are timed: they allocate, and compile what is new."""
NOT_KERNELS = "Optimizer.", "Torch-Compiled", "ProfilerStep", "## "
"""Beginnings of the names of what the profiler shows on the GPU's line and is none of its work."""


@final
class Stepper:
    """One update as train.py makes it, on the batch that it is given, at a learning rate of 0."""

    def __init__(self, recipe: Recipe, method: Method) -> None:
        self.recipe, self.method = recipe, method
        self.device = next(method.parameters()).device
        self.optimiser = build_optimiser(method, recipe.optim)

    def __call__(self, batch: Batch) -> None:
        """Run forward, backward and update."""
        info = StepInfo(10**6, labels_only=False)
        update(self.recipe, self.method, self.optimiser, batch, info, self.device)

    def let_pass(self, share: float = PASSED, *, varying: bool = False) -> None:
        """Let this share of the pseudo-labels pass from now on, on average if `varying`."""
        fix_pass_rate(self.method, share, varying=varying)


@final
@dataclass(frozen=True)
class Rates:
    """What a step of so many images costs; None where it was not measured, as on a CPU.

    fixed, varying      images a second
    wall_ms, gpu_ms     of a step with a fixed number; gpu_ms: all kernels and copies together
    peak_gb, reserved_gb  of torch's memory
    """

    images: int
    fixed: float
    varying: float
    wall_ms: float
    tflops: float
    gpu_ms: float | None = None
    kernels: int | None = None
    peak_gb: float | None = None
    reserved_gb: float | None = None

    def values(self) -> dict[str, float]:
        """Return the numbers that were measured, by name."""
        return {name: float(value) for name, value in asdict(self).items() if value is not None}

    def figure(self) -> str:
        """Put the numbers into a line."""
        parts = [f"{self.fixed:,.0f} images/s, {self.varying:,.0f} with n varying", f"{self.tflops:,.1f} TFLOP/s"]
        if self.peak_gb is None:
            parts.append(f"{self.wall_ms:.0f} ms a step")
        elif self.gpu_ms is None:
            parts.append(f"{self.wall_ms:.1f} ms a step; the profiler (CUPTI) saw no kernels")
        else:
            parts.append(f"GPU {self.gpu_ms:.1f} of {self.wall_ms:.1f} ms, {self.kernels:,} kernels")
        if self.peak_gb is not None:
            parts.append(f"peak {self.peak_gb:.1f} GB, reserved {self.reserved_gb:.1f}")
        return "; ".join(parts)


def built(recipe: Recipe, classes: int, device: torch.device) -> Method:
    """Build the method of a recipe in training mode, with a fixed share of pseudo-labels that pass."""
    torch.manual_seed(0)
    method = method_class(recipe)(recipe, classes)
    method.set_dataset_size(1 << 16, 1 << 16)
    method.set_label_counts(torch.full((classes,), 1 << 10))
    fix_pass_rate(method, PASSED)
    return method.train().to(device)


def flops_per_image(step: Stepper, batch: Batch) -> float:
    """Count the FLOPs of an image of a step; a small batch will do, and blocks that are not compiled."""
    step.let_pass()
    return float(count_flops(lambda: step(batch))) / images_of(batch)


def images_of(batch: Batch) -> int:
    """Count the images of a batch, labelled and unlabelled."""
    return sum(len(part.ids) for part in (batch.labelled, batch.unlabelled) if part is not None)


def measured(step: Stepper, batch: Batch, flops: float, seconds: float) -> Rates:
    """Measure a step on one batch: each kind of step for so many seconds, after three that are not counted.

    flops  of an image
    """
    images = images_of(batch)
    cuda = step.device.type == "cuda"
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    wall = per_step(step, batch, seconds, vary=False)
    varied = per_step(step, batch, seconds, vary=True)
    found = Rates(images, images / wall, images / varied, 1000 * wall, images * flops / wall / 1e12)
    if not cuda:
        return found
    peak, reserved = torch.cuda.max_memory_allocated() / 1e9, torch.cuda.max_memory_reserved() / 1e9
    step.let_pass()
    gpu_ms, kernels = gpu_work(step, batch)
    found = replace(found, peak_gb=peak, reserved_gb=reserved)
    return replace(found, gpu_ms=gpu_ms, kernels=kernels) if kernels else found


def per_step(step: Stepper, batch: Batch, seconds: float, *, vary: bool) -> float:
    """Return the seconds of a step on the wall clock, queued ahead of the GPU as in training."""
    step.let_pass(varying=vary)
    for _ in range(WARM_UP):
        step(batch)
    synchronise(step.device)
    began, done = time.perf_counter(), 0
    while done < 2 or time.perf_counter() - began < seconds:
        step(batch)
        done += 1
    synchronise(step.device)
    return (time.perf_counter() - began) / done


def host_ms(step: Stepper, small: Batch) -> float:
    """Return the ms that the host needs for a step: those of a batch that is nothing to a GPU, of as many launches."""
    return 1000 * per_step(step, small, 0.5, vary=False)


def gpu_work(step: Stepper, batch: Batch) -> tuple[float, int]:
    """Return the ms of all that a step runs on the GPU, and how many kernels and copies these are."""
    from torch.profiler import ProfilerActivity, profile

    steps = 3
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        for _ in range(steps):
            step(batch)
        synchronise(step.device)
    work = [event.time_range.elapsed_us() for event in seen.events() if is_gpu_work(event)]
    return sum(work) / steps / 1000, len(work) // steps


def is_gpu_work(event: Any) -> bool:
    """Say whether the profiler's event is a kernel, a copy or a fill on the GPU."""
    return event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith(NOT_KERNELS)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done its work; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def released() -> Generator[None]:
    """Give back the GPU's memory at the end, for what is measured next."""
    try:
        yield
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
