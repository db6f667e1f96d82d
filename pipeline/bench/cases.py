"""The stages of this package that pipeline.bench measures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from pipeline.backends import kernels
from pipeline.backends.base import Backend, jpeg_source
from pipeline.backends.ffcv import FFCV
from pipeline.backends.gpu_views import Packed
from pipeline.backends.select import dali_there
from pipeline.backends.staged_decode import StagedDecode
from pipeline.backends.staging_buffers import SLOT_PIXELS, SLOTS, Slot, StagingBuffers
from pipeline.bench.rounds import Case
from pipeline.concurrency.pool import Pool
from pipeline.loader import Loader, LoaderSpec
from pipeline.sampling.sampler import SampleIds, Sampler
from pipeline.spec import Data, View
from pipeline.store.beton import Beton
from pipeline.train_data import unlabelled_views
from pipeline.views.plan import Plan, ViewSpec, draw

if TYPE_CHECKING:
    from pipeline.backends.dali import Dali

SCALE = (0.2, 1.0)  # of every crop, ours and the peers': MAE's
PATCH = 16
LOADER_BATCHES = 100  # enough that the few prepared and never asked for do not count
BOUND = "decode only (the bound)"
DEVICE = "T2: plan + decode, views left to the device"
CPU = "T0: weak + strong views on the CPU"
OVERHEAD = "the loader alone: order, plan, queues"
ON_GPU = "T2 end to end, views on the GPU"


@dataclass(frozen=True, eq=False)
class Work:
    """What every case goes through: images `ids` (i64 [n], the file's first) in batches, views of `size` pixels."""

    beton: Beton
    ids: np.ndarray
    size: int
    batch: int
    threads: int

    @property
    def batches(self) -> list[np.ndarray]:
        """The ids, `batch` at a time."""
        return [self.ids[first : first + self.batch] for first in range(0, len(self.ids), self.batch)]

    def wanted(self, colours: bool = True, strong: bool = True) -> ViewSpec:
        """A weak view with visible patches and a strong one; without `strong`, one crop and no patches."""
        weak = View(scale=SCALE)
        view = View(scale=SCALE, augment="usb", erase="cutout") if colours else weak
        return unlabelled_views(Data(size=self.size, weak=weak, strong=view), PATCH, strong, visible=strong)

    def plan(self, wanted: ViewSpec, ids: np.ndarray) -> Plan:
        """The first pass's plan of some images."""
        return draw(wanted, SampleIds(ids, np.zeros_like(ids)), self.beton.heights[ids], self.beton.widths[ids], seed=0)


@contextmanager
def own_cases(work: Work) -> Iterator[dict[str, Case]]:
    """The cases of this package by name; their threads end with the context."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    opened: list[Backend | Pool] = [FFCV(work.beton, work.size, torch.device("cpu"), "cpu", work.threads)]
    pool = Pool(work.threads, lambda: None)
    opened.append(pool)
    largest = int((work.beton.heights[work.ids] * work.beton.widths[work.ids]).max())
    buffers = StagingBuffers(SLOTS, max(SLOT_PIXELS, largest), device)
    _touch(buffers)
    on_cpu = partial(viewed, work, opened[0])
    cases = {
        BOUND: partial(decoded, work),
        DEVICE: partial(packed, work, pool, buffers),
        CPU: partial(on_cpu, work.wanted()),
        "T0 without the strong colours": partial(on_cpu, work.wanted(colours=False)),
        "T0, one crop": partial(on_cpu, work.wanted(strong=False)),
        OVERHEAD: partial(handed_out, work),
    }
    if dali_there():
        from pipeline.backends.dali import Dali

        opened.append(Dali(work.beton, work.size, torch.device("cpu"), "cpu", work.threads))
        cases["decode only, DALI on the CPU from .beton"] = partial(decoded_by_dali, work, opened[-1])
        cases["T0, decoded by DALI on the CPU"] = partial(viewed, work, opened[-1], work.wanted())
    if device.type == "cuda":
        opened.append(FFCV(work.beton, work.size, device, "device", work.threads))
        cases[ON_GPU] = partial(viewed, work, opened[-1], work.wanted())
        if dali_there():
            opened.append(Dali(work.beton, work.size, device, "device", work.threads))
            cases["decode only, nvJPEG by DALI from .beton"] = partial(decoded_by_dali, work, opened[-1])
            cases["T2 end to end, decoded by nvJPEG"] = partial(viewed, work, opened[-1], work.wanted())
    try:
        yield cases
    finally:
        for each in opened:
            each.close()


def decoded(work: Work) -> int:
    """Decode one image after another to the same place, in one compiled call: nothing that decodes can be faster."""
    source, errors = jpeg_source(work.beton, work.ids), np.zeros(len(work.ids), np.int32)
    target = kernels.scratch(int((source.heights * source.widths).max()), 1).pixels
    kernels.decode_packed(0, len(work.ids), source, target, np.zeros(len(work.ids), np.int64), errors)
    return len(work.ids)


def packed(work: Work, pool: Pool, buffers: StagingBuffers) -> int:
    """T2's share of the CPU, without a GPU's: plan, then decode through the ring, and leave the pixels there."""
    wanted = work.wanted()
    for ids in work.batches:
        work.plan(wanted, ids)
        for _ in StagedDecode(jpeg_source(work.beton, ids), pool, buffers).to(torch.device("cpu")):
            pass
    return len(work.ids)


def _touch(buffers: StagingBuffers) -> None:
    """Have the system back the ring's memory now, as it does with pinned memory: not while T2 is timed."""
    lent: list[Slot] = []
    for _ in range(SLOTS):
        buffers.ask(lent.append)
    for slot in lent:
        slot.pixels.zero_()
        buffers.give_back(slot)


def viewed(work: Work, backend: Backend, wanted: ViewSpec) -> int:
    """Plan and views of every batch, the next one begun before this one is waited for; a GPU has made them all."""
    waiting: list[Callable[[], list[Tensor]]] = []
    for ids in work.batches:
        waiting.append(backend.start(work.plan(wanted, ids)))
        if len(waiting) > 1:
            waiting.pop(0)()
    for finish in waiting:
        finish()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return len(work.ids)


def decoded_by_dali(work: Work, backend: "Dali") -> int:
    """DALI's share of its back-end: the file's bytes in, packed pixels out, one batch begun ahead."""
    waiting: list[Callable[[], Packed]] = []
    for ids in work.batches:
        waiting.append(backend.decode(ids))
        if len(waiting) > 1:
            waiting.pop(0)()
    for finish in waiting:
        finish()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return len(work.ids)


def handed_out(work: Work) -> int:
    """Batches of a loader whose back-end has nothing to do: what is left is the loader's own."""
    order = Sampler(0, None, range(work.beton.n), 0, work.batch)
    feed = LoaderSpec(order, np.full(work.beton.n, -1), None, work.wanted())
    with Loader(feed, Idle(work), torch.device("cpu")) as batches:
        for _ in range(LOADER_BATCHES):
            next(batches)
    return LOADER_BATCHES * work.batch


@final
class Idle(Backend):
    """Queues a plan's work as every back-end does, and does none of it."""

    def __init__(self, work: Work):
        self.heights, self.widths = work.beton.heights, work.beton.widths
        self._pool = Pool(work.threads, lambda: None)
        self._view = torch.empty(work.batch, 3, work.size, work.size, dtype=torch.uint8)

    def start(self, plan: Plan) -> Callable[[], list[Tensor]]:
        wait = self._pool.start(lambda first, last, _: None, len(plan.ids))

        def finish() -> list[Tensor]:
            wait()
            return [self._view] * len(plan.names)

        return finish

    def close(self) -> None:
        self._pool.close()
