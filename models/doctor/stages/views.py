"""Do the GPU's executors show what the CPU's show, for every crop, preset and store, and does a slow stream mix images
up?"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any, final, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from models.doctor.photographs import open_photographs
from models.doctor.stage import Context, Row, Stage, no_gpu
from pipeline import rng
from pipeline.backends import cpu_views, kernels
from pipeline.backends.ffcv import FFCV
from pipeline.backends.in_memory import InMemoryBackend
from pipeline.backends.staging_buffers import StagingBuffers
from pipeline.concurrency.pool import Pool
from pipeline.executors import agreement
from pipeline.executors.gpu_views import Packed, make_views
from pipeline.loader import Loader, LoaderSpec
from pipeline.sampling.sampler import SampleIds, Sampler
from pipeline.spec import View
from pipeline.store.beton import Beton
from pipeline.views.plan import Plan, ViewSpec, draw

IMAGES = {"cuda": 48, "cpu": 16}
SIDE = {"cuda": 224, "cpu": 48}
ALIKE = 1
"""Grey levels by which crops that shrink an image may differ: both executors average the same pixels."""
ASLEEP_CYCLES = 40_000_000
"""About 20 ms on a GPU: longer than its copies and views of a batch take."""
BATCHES, BATCH = 12, 32
JITTER = (0.4, 0.4, 0.2, 0.1)


@final
class Views(Stage):
    """The views of this device beside those of the numba kernels."""

    place = 4
    deadline_s = 150

    def run(self, context: Context) -> Iterator[Row]:
        """Yield a row for the kernels, each crop, each preset, the stores, and the race."""
        device = torch.device(context.device)
        beton = open_photographs(replace(context, data=None))  # few, as one of the stores decodes them all
        yield kernels_row(device) if context.cuda else no_gpu("Triton kernels = torch")
        ids = np.arange(min(IMAGES[context.kind], beton.n))
        for name, view in crops().items():
            yield crop_row(name, planned(beton, view, ids, SIDE[context.kind]), beton, device)
        for name, view in presets().items():
            yield colours_row(name, planned(beton, view, ids, SIDE[context.kind]), device)
        yield stores_row(beton, ids, SIDE[context.kind], device)
        yield race_row(beton, SIDE[context.kind], device)


def kernels_row(device: torch.device) -> Row:
    """Compare each Triton kernel with torch's version on this GPU, as a run does before it uses them."""
    refused = agreement.refused(device)
    if refused:
        said = "; ".join(f"{name}: {why}" for name, why in refused.items())
        return Row("Triton kernels = torch", "slow", said, "a run uses torch's version of these, which is slower")
    return Row("Triton kernels = torch", "ok", "cut to a grey level; colours and erasing to the bit")


def options(name: str) -> tuple[Any, ...]:
    """List the values that a field of View may have."""
    return get_args(get_type_hints(View)[name])


def crops() -> dict[str, View]:
    """Return a view for every kind of crop by every filter."""
    kinds = product(options("crop"), options("filter"))
    return {f"{crop}, {kind}": View(crop=crop, filter=kind, scale=(0.5, 1.0), padding=4) for crop, kind in kinds}


def presets() -> dict[str, View]:
    """Return a view for every library's RandAugment, every kind of erasing, and jitter."""
    augmented = {f"RandAugment of {kind}": View(augment=kind) for kind in options("augment") if kind != "none"}
    erased = {f"erase {kind}": View(erase=kind) for kind in options("erase") if kind != "none"}
    both = View(augment="timm", erase="random", jitter=JITTER)
    return {**augmented, **erased, "jitter": View(jitter=JITTER, jitter_probability=1.0), "all of timm's": both}


def planned(beton: Beton, view: View, ids: np.ndarray, side: int) -> Plan:
    """Draw the plan of one view of some images."""
    samples = SampleIds(ids, np.zeros_like(ids))
    spec = ViewSpec({"view": (view, rng.STRONG)}, side)
    return draw(spec, samples, beton.heights[ids], beton.widths[ids], seed=3)


def crop_row(name: str, plan: Plan, beton: Beton, device: torch.device) -> Row:
    """Compare crops by the numba kernels with those of the device."""
    here = viewed(InMemoryBackend(beton, plan.size, torch.device("cpu"), "cpu"), plan)
    there = viewed(InMemoryBackend(beton, plan.size, device, "device"), plan)
    height, width = plan.size
    shrink = (plan.params.boxes[0, :, 2] >= height) & (plan.params.boxes[0, :, 3] >= width)
    levels = (here.int() - there.int()).abs()
    smaller = levels[torch.from_numpy(shrink)]
    most, mean = float(smaller.max()) if len(smaller) else 0.0, float(levels.float().mean())
    figure = f"{most:.0f} level(s) at most over {int(shrink.sum())} images, {mean:.3f} on average over {len(shrink)}"
    right = most <= ALIKE and mean < 1
    to_do = "" if right else "set --data.views-on cpu, and report it: views differ between executors"
    return Row(f"crop {name}", "ok" if right else "wrong", figure, to_do, {"most": most, "mean": mean})


def viewed(backend: Any, plan: Plan) -> Tensor:
    """Make the one view of a plan and return it on the host, u8 [N, H, W, 3]; the back-end is closed."""
    try:
        (view,) = backend.start(plan)()
        return view.permute(0, 2, 3, 1).cpu()
    finally:
        backend.close()


def colours_row(name: str, plan: Plan, device: torch.device) -> Row:
    """Carry out colours, geometry and erasing of a plan on images of the view's size by both executors: to the bit."""
    n, (height, width) = len(plan.ids), plan.size
    chance = np.random.default_rng(4)
    colours = torch.from_numpy(chance.integers(0, 256, (n, 3, 6, 6), dtype=np.uint8)).float()
    images = torch.nn.functional.interpolate(colours, plan.size, mode="bilinear").round().to(torch.uint8)
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3).contiguous()
    whole = np.tile(np.array([0, 0, height, width], np.int32), (1, n, 1))
    params = plan.params._replace(
        boxes=whole, insets=np.zeros_like(whole), flips=np.zeros_like(plan.params.flips)
    )  # what is cut is the whole image, which no filter changes
    places, sides = np.arange(n) * height * width, (np.full(n, height), np.full(n, width))
    source = kernels.Source(pixels.data_ptr(), 3 * places, np.zeros(n, np.int64), *sides, kernels.RAW)
    pool = Pool(None, lambda: kernels.scratch(1, plan.size))
    try:
        (here,), _ = cpu_views.start_views(pool, source, params, plan.size, torch.device("cpu"))()
    finally:
        pool.close()
    (there,) = make_views(Packed(pixels.to(device), places, sides[1]), params, plan.size)
    wrong = (here != there.cpu()).flatten(1).any(1)
    changed = (here != images).flatten(1).any(1)
    figure = f"{int(wrong.sum())} of {n} images differ; {int(changed.sum())} were changed by it"
    if wrong.any():
        return Row(name, "wrong", figure, "set --data.views-on cpu, and report it: views differ between executors")
    return Row(name, "ok", figure)


def stores_row(beton: Beton, ids: np.ndarray, side: int, device: torch.device) -> Row:
    """Compare the views of images that are kept decoded with those of images that are decoded each time."""
    plan = planned(beton, View(augment="usb", erase="cutout"), ids, side)
    kept, streamed = (viewed(kind(beton, plan.size, device, "device"), plan) for kind in (InMemoryBackend, FFCV))
    figure = f"{len(ids)} images, memory and ffcv: {'equal' if torch.equal(kept, streamed) else 'not equal'}"
    if torch.equal(kept, streamed):
        return Row("stores give the same views", "ok", figure)
    return Row("stores give the same views", "wrong", figure, "set --data.backend memory or --data.views-on cpu")


def race_row(beton: Beton, side: int, device: torch.device) -> Row:
    """Load batches through two staging buffers while the stream that uses them is asleep: bits as of an idle machine.

    Asleep, the stream reads a batch long after the loader has prepared those that follow, so that memory which is
    handed out too early, or a buffer that is overwritten before its copy has ended, shows.
    """
    idle, busy = (sums(beton, side, device, asleep=asleep) for asleep in (False, True))
    wrong = int((idle != busy).any(1).sum())
    figure = f"{wrong} of {BATCHES} batches differ" + ("" if device.type == "cuda" else "; no GPU: host buffers alone")
    if wrong:
        to_do = "set --data.views-on cpu, and report it: images are overwritten while they are read"
        return Row("race: two buffers, a stream asleep", "wrong", figure, to_do)
    return Row("race: two buffers, a stream asleep", "ok", figure)


def sums(beton: Beton, side: int, device: torch.device, *, asleep: bool) -> Tensor:
    """Return a checksum of each image of some batches, i64 [BATCHES, BATCH], computed on the current stream."""
    backend = FFCV(beton, side, device, "device")
    if asleep:  # as few as can be, each of one image or a few
        backend._buffers = StagingBuffers(2, max(1 << 20, beton.largest), device)
    views = ViewSpec({"weak": (View(), rng.WEAK)}, side)
    spec = LoaderSpec(Sampler(0, None, range(beton.n), 0, BATCH), np.full(beton.n, -1), None, views)
    found = []
    with Loader(spec, backend, device, hang_timeout_s=60) as batches:
        for _ in range(BATCHES):
            batch = next(batches)
            assert batch.unlabelled is not None  # the stream that is read
            if device.type == "cuda" and asleep:
                torch.cuda._sleep(ASLEEP_CYCLES)
            pixels = batch.unlabelled.weak.flatten(1).long()
            found.append((pixels * (torch.arange(pixels.shape[1], device=device) % 65521)).sum(1))
            if device.type == "cuda" and not asleep:
                torch.cuda.synchronize()
    return torch.stack(found).cpu()
