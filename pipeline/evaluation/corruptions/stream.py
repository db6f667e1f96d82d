"""Corrupt images by threads, batch after batch, while the network computes on earlier batches."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.concurrency.ahead import ahead
from pipeline.concurrency.cores import cores
from pipeline.concurrency.pool import CHUNK
from pipeline.concurrency.threads import Threads
from pipeline.concurrency.transfer import to_device
from pipeline.evaluation.corruptions.corrupt import Table, corrupt

AHEAD = 2  # batches that are being made while one is used


class CorruptionSpec(NamedTuple):
    """One corruption at one severity, 1 to 5."""

    name: str
    severity: int


class Corrupted(NamedTuple):
    """Images first..first+n-1 of the sweep under `spec` (None: as they are): u8 [n, 3, H, W] on the device."""

    spec: CorruptionSpec | None
    first: int
    images: Tensor


class CorruptionSettings(NamedTuple):
    """How images are corrupted: the table of levels, the seed, JPEG as in ImageNet-C's files, threads (None: one for
    each core)."""

    table: Table = "auto"
    seed: int = 0
    as_file: bool = False
    threads: int | None = None


class Begun(NamedTuple):
    """A batch u8 [n, H, W, 3] on the host that threads are writing; complete when their jobs are."""

    spec: CorruptionSpec | None
    first: int
    pixels: Tensor
    jobs: list[Future]


def stream(
    clean: Iterable[Tensor],
    ids: np.ndarray,
    specs: Sequence[CorruptionSpec],
    device: torch.device,
    settings: CorruptionSettings,
) -> Iterator[Corrupted]:
    """Yield every batch as it is, then under each of `specs`; so an image is decoded once for all of them.

    clean  u8 [n, 3, H, W] on the host, channels last in storage
    ids    i64 [N], image ids of all batches, which decide what is drawn

        for corrupted in stream(batches, ids, [CorruptionSpec("fog", 3)], device, CorruptionSettings(seed=0)): ...
    """
    threads = Threads(settings.threads or cores(), "corrupt")
    try:
        for begun in ahead(_begin_all(threads, clean, ids, specs, device, settings), AHEAD):
            yield _finish(begun, device)
    finally:
        threads.close()


def _begin_all(
    threads: Threads,
    clean: Iterable[Tensor],
    ids: np.ndarray,
    specs: Sequence[CorruptionSpec],
    device: torch.device,
    settings: CorruptionSettings,
) -> Iterator[Begun]:
    first = 0
    for batch in clean:
        source = batch.permute(0, 2, 3, 1).numpy()
        yield Begun(None, first, torch.from_numpy(source), [])
        for spec in specs:
            pixels, jobs = _begin(threads, source, ids[first : first + len(batch)], spec, device, settings)
            yield Begun(spec, first, pixels, jobs)
        first += len(batch)


def _begin(
    threads: Threads,
    source: np.ndarray,
    ids: np.ndarray,
    spec: CorruptionSpec,
    device: torch.device,
    settings: CorruptionSettings,
) -> tuple[Tensor, list[Future]]:
    out = torch.empty(source.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    made = out.numpy()

    def work(first: int, last: int) -> None:
        for i in range(first, last):
            made[i] = corrupt(source[i], *spec, int(ids[i]), settings.seed, settings.table, settings.as_file)

    n = len(source)
    return out, [threads.submit(work, first, min(first + CHUNK, n)) for first in range(0, n, CHUNK)]


def _finish(begun: Begun, device: torch.device) -> Corrupted:
    for job in begun.jobs:
        job.result()
    return Corrupted(begun.spec, begun.first, to_device(begun.pixels, device).permute(0, 3, 1, 2))
