"""Measure how many images a second each decoder gives on this machine, on the first images of a file."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np
import torch

from pipeline.backends import libffcv
from pipeline.backends.backend import sample_source
from pipeline.backends.staged_decode import StagedDecode
from pipeline.backends.staging_buffers import staging_buffers_for
from pipeline.concurrency.ahead import ahead
from pipeline.concurrency.pool import Pool
from pipeline.executors.gpu_views import takes_planes
from pipeline.spec import HW_DECODER_LOAD, Size
from pipeline.store.beton import Beton

IMAGES, BATCH = 512, 256  # decoded again and again; after the first time they are in the page cache
FFCV_S, DALI_S = 1.0, 2.0  # seconds; DALI balances hardware engine, kernels and CPU, which takes longer to settle

Start = Callable[[np.ndarray], Callable[[], object]]
"""Begins to decode images (ids i64 [N]); the result waits for them."""


def ffcv_rate(beton: Beton, device: torch.device, threads: int) -> float:
    """Measure the images a second that the CPU decodes and that are copied to the device."""
    libffcv.load()
    pool, buffers = Pool(threads, lambda: None), staging_buffers_for(beton.largest, threads, device)

    def start(ids: np.ndarray) -> Callable[[], object]:
        decoded = StagedDecode(sample_source(beton, ids), pool, buffers, planes=takes_planes(device.type))
        return lambda: deque(decoded.to(device), maxlen=0)

    try:
        return measured(start, beton.n, device, FFCV_S)
    finally:
        pool.close()


def dali_rate(
    beton: Beton, size: Size, device: torch.device, threads: int, hw_decoder_load: float = HW_DECODER_LOAD
) -> float:
    """Measure the images a second that DALI decodes on the device. Raises InputError where DALI cannot be used."""
    from pipeline.backends.dali import Dali

    backend = Dali(beton, size, device, "device", threads, hw_decoder_load)
    try:
        return measured(backend.decode, beton.n, device, DALI_S)
    finally:
        backend.close()


def measured(start: Start, n: int, device: torch.device, limit_s: float) -> float:
    """Measure the images a second of `start` over the first of n images, two batches at a time.

    Each batch is decoded once before the clock starts. Images that cannot be decoded do not stop the measurement; they
    raise where they are trained on.
    """
    ids = np.arange(min(n, IMAGES))
    batches = [ids[first : first + BATCH] for first in range(0, len(ids), BATCH)]
    for batch in batches:
        start(batch)()
    began, done = _now(device), 0

    def begin() -> Iterator[tuple[Callable[[], object], int]]:
        for batch in cycle(batches):
            yield start(batch), len(batch)
            if time.perf_counter() - began >= limit_s:
                return

    for finish, count in ahead(begin()):
        finish()
        done += count
    return done / (_now(device) - began)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
