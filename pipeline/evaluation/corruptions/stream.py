"""Corrupted images beside the decoder: batch after batch, made by threads while the network looks at earlier ones."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.concurrency.pool import CHUNK, cores
from pipeline.concurrency.threads import Threads
from pipeline.concurrency.transfer import send
from pipeline.evaluation.corruptions.corrupt import Table, corrupt

AHEAD = 2  # batches that are being made while one is used


class ViewSpec(NamedTuple):
    """One corruption at one severity, 1 to 5."""

    name: str
    severity: int


class Corrupted(NamedTuple):
    """Images first..first+n-1 of the sweep under `wanted` (None: as they are): u8 [n, 3, S, S] on the device."""

    wanted: ViewSpec | None
    first: int
    images: Tensor


class Making(NamedTuple):
    """How images are corrupted."""

    table: Table = "auto"
    seed: int = 0
    as_file: bool = False
    threads: int | None = None


def stream(
    clean: Iterable[Tensor], ids: np.ndarray, wanted: Sequence[ViewSpec], device: torch.device, making: Making
) -> Iterator[Corrupted]:
    """Every batch as it is, then under each of `wanted`: an image is decoded once for all of them.

    clean  u8 [n, 3, S, S] on the host, channels last in storage
    ids    i64 [N], image ids of all batches, which decide what is drawn
    """
    threads = Threads(making.threads or cores(), "corrupt")
    begun: deque[tuple[ViewSpec | None, int, Tensor, list[Future]]] = deque()
    first = 0
    try:
        for batch in clean:
            source = batch.permute(0, 2, 3, 1).numpy()
            part = ids[first : first + len(batch)]
            begun.append((None, first, torch.from_numpy(source), []))
            for each in wanted:
                begun.append((each, first, *_begin(threads, source, part, each, device, making)))
                if len(begun) > AHEAD:
                    yield _finish(begun.popleft(), device)
            first += len(batch)
        while begun:
            yield _finish(begun.popleft(), device)
    finally:
        threads.close()


def _begin(
    threads: Threads, source: np.ndarray, ids: np.ndarray, wanted: ViewSpec, device: torch.device, making: Making
) -> tuple[Tensor, list[Future]]:
    out = torch.empty(source.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    made = out.numpy()

    def work(first: int, last: int) -> None:
        for i in range(first, last):
            made[i] = corrupt(source[i], *wanted, int(ids[i]), making.seed, making.table, making.as_file)

    n = len(source)
    return out, [threads.submit(work, first, min(first + CHUNK, n)) for first in range(0, n, CHUNK)]


def _finish(begun: tuple[ViewSpec | None, int, Tensor, list[Future]], device: torch.device) -> Corrupted:
    wanted, first, out, jobs = begun
    for job in jobs:
        job.result()
    return Corrupted(wanted, first, send(out, device).permute(0, 3, 1, 2))
