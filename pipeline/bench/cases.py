"""Define the cases of pipeline.bench: the stages of this package, each a function that prepares some images."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from pipeline.backends import kernels
from pipeline.backends.backend import Backend, PendingViews, sample_source
from pipeline.backends.ffcv import FFCV
from pipeline.backends.select import dali_there
from pipeline.backends.staged_decode import StagedDecode
from pipeline.backends.staging_buffers import SLOT_PIXELS, SLOTS, Slot, StagingBuffers
from pipeline.bench.rounds import Case
from pipeline.concurrency.ahead import ahead
from pipeline.concurrency.pool import Pool
from pipeline.loader import Loader, LoaderSpec
from pipeline.sampling.sampler import SampleIds, Sampler
from pipeline.spec import HW_DECODER_LOAD, Data, Size, View, both_sides
from pipeline.store.beton import Beton
from pipeline.train_data import unlabelled_spec
from pipeline.views.plan import Plan, ViewSpec, draw

SCALE = (0.2, 1.0)  # of every crop, ours and the peers', as in MAE
PATCH = 16
LOADER_BATCHES = 100  # so many that the few which are prepared and not used do not count
BOUND = "decode only (the bound)"
GPU_VIEWS = "GPU views, the CPU's share: plan + decode"
CPU_VIEWS = "CPU views: weak + strong"
OVERHEAD = "the loader alone: sampler, plan, queues"
GPU_END_TO_END = "GPU views, end to end"
HW_LOADS = 0.0, 0.5, 0.65, 0.8, 1.0
"""Shares of a batch for the GPU's own JPEG engine (data.hw_decoder_load); equal rates mean that there is none."""


@dataclass(frozen=True, eq=False)
class Work:
    """What every case prepares: images `ids` (i64 [n], the file's first) in batches, in views of `size`; ours are
    resized by `filter`. `bound` holds the same images as JPEG, where `beton` does not: to decode them is the bound."""

    beton: Beton
    ids: np.ndarray
    size: Size
    batch: int
    threads: int
    filter: Literal["area", "bilinear", "bicubic"] = "bicubic"
    bound: Beton | None = None

    @property
    def jpegs(self) -> Beton:
        """The file whose images are decoded as the bound, and which peers that want JPEG read."""
        return self.bound or self.beton

    @property
    def batches(self) -> list[np.ndarray]:
        """Cut the ids into batches of `batch`."""
        return [self.ids[first : first + self.batch] for first in range(0, len(self.ids), self.batch)]

    def spec(self, colours: bool = True, strong: bool = True) -> ViewSpec:
        """Describe a weak view with visible patches and a strong one; without `strong`, one crop and no patches."""
        weak = View(scale=SCALE, filter=self.filter)
        view = replace(weak, augment="usb", erase="cutout") if colours else weak
        return unlabelled_spec(Data(size=self.size, weak=weak, strong=view), PATCH, strong, visible=strong)

    def plan(self, spec: ViewSpec, ids: np.ndarray) -> Plan:
        """Draw the plan of some images in their first pass."""
        return draw(spec, SampleIds(ids, np.zeros_like(ids)), self.beton.heights[ids], self.beton.widths[ids], seed=0)


@contextmanager
def own_cases(work: Work) -> Generator[dict[str, Case]]:
    """Yield the cases of this package by name; their threads end with the context."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ffcv = FFCV(work.beton, work.size, torch.device("cpu"), "cpu", work.threads)
    pool = Pool(work.threads, lambda: None)
    opened: list[Backend | Pool] = [ffcv, pool]
    largest = int((work.beton.heights[work.ids] * work.beton.widths[work.ids]).max())
    buffers = StagingBuffers(SLOTS, max(SLOT_PIXELS, largest), device)
    _touch(buffers)
    on_cpu = partial(viewed, work, ffcv)
    cases: dict[str, Case] = {
        BOUND: partial(decoded, work),
        GPU_VIEWS: partial(packed, work, pool, buffers),
        CPU_VIEWS: partial(on_cpu, work.spec()),
        "CPU views without the strong colours": partial(on_cpu, work.spec(colours=False)),
        "CPU views, one crop": partial(on_cpu, work.spec(strong=False)),
        OVERHEAD: partial(loaded, work),
    }
    if dali_there() and work.beton.store == "jpeg":
        from pipeline.backends.dali import Dali

        opened.append(dali := Dali(work.beton, work.size, torch.device("cpu"), "cpu", work.threads))
        cases["decode only, DALI on the CPU from .beton"] = partial(one_ahead, work, dali.decode)
        cases["CPU views, decoded by DALI"] = partial(viewed, work, dali, work.spec())
    if device.type == "cuda":
        opened.append(on_device := FFCV(work.beton, work.size, device, "device", work.threads))
        cases[GPU_END_TO_END] = partial(viewed, work, on_device, work.spec())
        if dali_there() and work.beton.store == "jpeg":
            for load in HW_LOADS:
                opened.append(nvjpeg := Dali(work.beton, work.size, device, "device", work.threads, load))
                cases[nvjpeg_case(load)] = partial(one_ahead, work, nvjpeg.decode)
                if load == HW_DECODER_LOAD:
                    cases["GPU views, end to end, decoded by nvJPEG"] = partial(viewed, work, nvjpeg, work.spec())
    try:
        yield cases
    finally:
        for each in opened:
            each.close()


def nvjpeg_case(load: float) -> str:
    """Name the case of a share of the GPU's own JPEG engine."""
    return f"decode only, nvJPEG by DALI, engine's share {load:g}"


def decoded(work: Work) -> int:
    """Decode one image after another to the same place, in one compiled call: an upper bound for everything that
    decodes with libffcv. Where no JPEG is there, stored pixels are turned into RGB in place of that."""
    source, errors = sample_source(work.jpegs, work.ids), np.zeros(len(work.ids), np.int32)
    target = kernels.scratch(int((source.heights * source.widths).max()), 1).pixels
    kernels.decode_packed(0, len(work.ids), source, target, np.zeros(len(work.ids), np.int64), errors)
    return len(work.ids)


def packed(work: Work, pool: Pool, buffers: StagingBuffers) -> int:
    """Do the CPU's share of GPU views: draw the plan, then decode into the staging buffers, or copy what is stored as
    pixels, and leave it there."""
    spec = work.spec()
    for ids in work.batches:
        work.plan(spec, ids)
        for _ in StagedDecode(sample_source(work.beton, ids), pool, buffers).to(torch.device("cpu")):
            pass
    return len(work.ids)


def _touch(buffers: StagingBuffers) -> None:
    """Have the system allocate the buffers' pages now, as it does for pinned memory, and not while a case is timed."""
    slots: list[Slot] = []
    for _ in range(SLOTS):
        buffers.request(slots.append)
    for slot in slots:
        slot.pixels.zero_()
        buffers.give_back(slot)


def viewed(work: Work, backend: Backend, spec: ViewSpec) -> int:
    """Draw the plan of every batch and make its views."""
    return one_ahead(work, lambda ids: backend.start(work.plan(spec, ids)))


def one_ahead(work: Work, start: Callable[[np.ndarray], Callable[[], object]]) -> int:
    """Start every batch (ids i64 [n]) before the one before it is waited for, until a GPU has finished them all,
    too."""
    for finish in ahead(start(ids) for ids in work.batches):
        finish()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return len(work.ids)


def loaded(work: Work) -> int:
    """Take batches from a loader whose back-end does nothing: what is left is the loader's own cost."""
    sampler = Sampler(0, None, range(work.beton.n), 0, work.batch)
    spec = LoaderSpec(sampler, np.full(work.beton.n, -1), None, work.spec())
    with Loader(spec, Idle(work), torch.device("cpu")) as batches:
        for _ in range(LOADER_BATCHES):
            next(batches)
    return LOADER_BATCHES * work.batch


@final
class Idle(Backend):
    """Back-end that queues a plan's work as every back-end does, and does none of it."""

    def __init__(self, work: Work):
        self.heights, self.widths = work.beton.heights, work.beton.widths
        self._pool = Pool(work.threads, lambda: None)
        self._view = torch.empty(work.batch, 3, *both_sides(work.size), dtype=torch.uint8)

    def start(self, plan: Plan) -> PendingViews:
        wait = self._pool.start(lambda first, last, _: None, len(plan.ids))

        def finish() -> list[Tensor]:
            wait()
            return [self._view] * len(plan.names)

        return finish

    def close(self) -> None:
        self._pool.close()
