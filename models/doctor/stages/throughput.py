"""How many images a second does a step take, eager and compiled, and how many does the loader bring?"""

import time
from collections.abc import Iterator
from typing import final

import numpy as np
import torch

from models.bench.synthetic import synthetic_batch
from models.config.recipe import Recipe
from models.config.resolve import resolve
from models.distributed.compile import compile_blocks
from models.doctor.photographs import open_photographs
from models.doctor.stage import Context, Row, Stage
from models.doctor.step_rates import Rates, Stepper, built, flops_per_image, host_ms, measured, released
from pipeline.backends.ffcv import FFCV
from pipeline.batch import Batch
from pipeline.concurrency.cores import cores
from pipeline.loader import Loader, LoaderSpec
from pipeline.sampling.sampler import Sampler, shares
from pipeline.store.beton import Beton
from pipeline.text import percent
from pipeline.train_data import labelled_spec, unlabelled_spec

IMAGES = {"cuda": (104, 256, 1024), "cpu": (32, 64)}
RECIPE = {"cuda": "semi_mae:in1k_10pct", "cpu": "semi_mae:digits"}
SMALL = 16
BUSY = 0.85
"""Share of a step's time in which the GPU works, below which it waits for its host."""
SAME = 0.85
"""Share of the rate with a fixed number of strong views that a varying number should reach."""
WAITS = 0.03
"""Share of the time that a run may wait for its data."""


@final
class Throughput(Stage):
    """The rates of the step and of the loader, apart and together."""

    place = 5
    deadline_s = 300

    def run(self, context: Context) -> Iterator[Row]:
        """Yield rows for the step at each size, the loader at each number of threads, and both together."""
        device, recipe = torch.device(context.device), resolve(RECIPE[context.kind], [])
        sizes = IMAGES[context.kind][1:2] if context.quick else IMAGES[context.kind]
        step = Stepper(recipe, built(recipe, 1000, device))
        compiled = context.cuda and not context.quick
        yield from step_rows(step, sizes, compiled=compiled, seconds=0.5 if context.quick else 1.0)
        if context.cuda and not context.quick:
            with released():
                yield from mae_row(device)
        yield from loader_rows(context, recipe, device)
        with released():
            yield feeding_row(context, step, sizes[-1] if context.quick else IMAGES[context.kind][1])


def step_rows(step: Stepper, sizes: tuple[int, ...], *, compiled: bool, seconds: float) -> Iterator[Row]:
    """Measure the step eagerly at each size, then compile its blocks and measure it again."""
    batches = {}
    small = synthetic_batch(step.recipe, SMALL, 1000, step.device)
    flops = flops_per_image(step, small)
    for kind in ("eager", "compiled") if compiled else ("eager",):
        if kind == "compiled":
            yield compile_row(step, synthetic_batch(step.recipe, sizes[0], 1000, step.device))
        for images in sizes:
            what = f"{step.recipe.name}, {images} images, {kind}"
            try:
                batches[images] = synthetic_batch(step.recipe, images, 1000, step.device)
                yield step_row(what, measured(step, batches[images], flops, seconds))
            except torch.OutOfMemoryError:
                step.optimiser.zero_grad(set_to_none=True)
                yield Row(what, "skipped", "does not fit the GPU's memory", "set --run.device-images lower")
            finally:
                batches.clear()
        ms = host_ms(step, small)
        yield Row(f"the host's share of a step, {kind}", "ok", f"{ms:.1f} ms ({SMALL} images)", "", {"ms": ms})


def step_row(what: str, rates: Rates) -> Row:
    """Judge the rates of a step."""
    if rates.peak_gb is None:  # a CPU's rates change with what else runs on it
        return Row(what, "ok", rates.figure(), "", rates.values())
    if rates.varying < SAME * rates.fixed:
        to_do = "steps wait where the number of strong views is new: see the stage attention"
        return Row(what, "slow", rates.figure(), to_do, rates.values())
    if rates.gpu_ms is not None and rates.gpu_ms < BUSY * rates.wall_ms:
        to_do = "the GPU waits for its host: a larger data.batch or device_images, and compiled blocks, fill it"
        return Row(what, "slow", rates.figure(), to_do, rates.values())
    return Row(what, "ok", rates.figure(), "", rates.values())


def compile_row(step: Stepper, batch: Batch) -> Row:
    """Compile the blocks, and time the steps until no graph is missing: with none, one, some and all passing."""
    compile_blocks(step.method)
    began = time.perf_counter()
    assert batch.unlabelled is not None  # Semi-MAE's
    for share in (0.5, 0.5, 0.3, 0.0, 1 / len(batch.unlabelled.ids), 1.0):
        step.let_pass(share)
        step(batch)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    figure = f"{seconds:.0f} s for the graphs of every number that may pass"
    return Row("compiling, after the stage correctness", "ok", figure, "", {"s": seconds})


def mae_row(device: torch.device) -> Iterator[Row]:
    """Measure MAE's step with ViT-B, 256 images, compiled."""
    recipe = resolve("mae:in1k_b16", [])
    step = Stepper(recipe, built(recipe, 1000, device))
    batch = synthetic_batch(recipe, 256, 1000, device)
    flops = flops_per_image(step, synthetic_batch(recipe, SMALL, 1000, device))
    compile_blocks(step.method)
    yield step_row(f"{recipe.name}, 256 images, compiled", measured(step, batch, flops, 1.0))


def loader_of(beton: Beton, recipe: Recipe, device: torch.device, images: int, threads: int | None) -> Loader:
    """Open a loader of a recipe's labelled and unlabelled views; labels are zeros, as nothing learns."""
    data, patch = recipe.data, recipe.encoder.patch
    counts = shares(images, data.ratio, True, True)
    sampler = Sampler(0, np.arange(beton.n), range(beton.n), *counts)
    specs = labelled_spec(data, patch, False), unlabelled_spec(data, patch, True, True)
    spec = LoaderSpec(sampler, np.zeros(beton.n, np.int64), *specs)
    where = "device" if device.type == "cuda" else "cpu"
    return Loader(spec, FFCV(beton, data.size, device, where, threads), device, hang_timeout_s=60)


def rate(batches: Loader, images: int, seconds: float) -> float:
    """Return the images a second that a loader brings to a caller who only takes them."""
    for _ in range(2):
        next(batches)
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds or not done:
        next(batches)
        done += images
    return done / spent if done and spent else 0.0


def loader_rows(context: Context, recipe: Recipe, device: torch.device) -> Iterator[Row]:
    """Measure the loader alone: decoding, views and the copy, with one thread, two, four, and so on up to all cores."""
    beton, images, before = open_photographs(context), 128, None
    counts = sorted({threads for threads in (1, 2, 4, 8, 16, 32, 64) if threads < cores()} | {cores()})
    for threads in counts[-1:] if context.quick else counts:
        with loader_of(beton, recipe, device, images, threads) as batches:
            found = rate(batches, images, 1.0)
        what, values = f"loader alone, {threads} thread(s)", {"images_s": found, "threads": float(threads)}
        grown = "" if before is None else f", {found / before:.1f} times the row before"
        yield Row(what, "ok", f"{found:,.0f} images/s{grown}", "", values)
        before = found


def feeding_row(context: Context, step: Stepper, images: int) -> Row:
    """Let the loader feed the step, and measure the share of the time that the step waits for it."""
    seconds = 2 if context.quick else 5
    with loader_of(open_photographs(context), step.recipe, step.device, images, None) as batches:
        step.let_pass()
        for _ in range(4):
            step(next(batches))
        began, waited, done = time.perf_counter(), batches.wait_s, 0
        while time.perf_counter() - began < seconds:
            step(next(batches))
            done += images
        if step.device.type == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - began
        share = (batches.wait_s - waited) / spent
    figure = f"{done / spent:,.0f} images/s, {percent(share)} of the time waiting for data"
    values = {"images_s": done / spent, "wait_share": share}
    if share > WAITS:
        to_do = "the step waits: more cores, smaller images (--advise), or DALI; see the stage backends"
        return Row(f"loader and step together, {images} images", "slow", figure, to_do, values)
    return Row(f"loader and step together, {images} images", "ok", figure, "", values)
