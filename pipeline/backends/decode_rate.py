"""Measure how many images a second each decoder gives on this machine, on the first images of a file."""

import time
from collections import deque
from collections.abc import Callable
from itertools import cycle

import numpy as np
import torch

from pipeline.backends import libffcv
from pipeline.backends.base import jpeg_source
from pipeline.backends.staged_decode import StagedDecode
from pipeline.backends.staging_buffers import staging_buffers_for
from pipeline.concurrency.pool import Pool
from pipeline.store.beton import Beton

IMAGES, BATCH = 512, 256  # that measuring goes through again and again, in the page cache after the first time
FFCV_S, DALI_S = 1.0, 2.0  # DALI balances hardware engine, kernels and CPU, which takes longer to settle

Start = Callable[[np.ndarray], Callable[[], object]]
"""Begins to decode images (ids i64 [N]); the result waits for them."""


def ffcv_rate(beton: Beton, device: torch.device, threads: int) -> float:
    """Images a second that the CPU decodes and sends to the device."""
    libffcv.load()
    pool, buffers = Pool(threads, lambda: None), staging_buffers_for(beton.largest, threads, device)

    def start(ids: np.ndarray) -> Callable[[], None]:
        pieces = StagedDecode(jpeg_source(beton, ids), pool, buffers)
        return lambda: deque(pieces.to(device), maxlen=0)

    try:
        return measured(start, beton.n, device, FFCV_S)
    finally:
        pool.close()


def dali_rate(beton: Beton, size: int, device: torch.device, threads: int) -> float:
    """Images a second that DALI decodes on the device; raises InputError where DALI cannot be used."""
    from pipeline.backends.dali import Dali

    backend = Dali(beton, size, device, "device", threads)
    try:
        return measured(backend.decode, beton.n, device, DALI_S)
    finally:
        backend.close()


def measured(start: Start, n: int, device: torch.device, limit_s: float) -> float:
    """Images a second of `start` over the first of n images, two batches at a time; the first time round is not timed.

    Images that cannot be decoded are none of this function's business: they raise where they are trained on.
    """
    ids = np.arange(min(n, IMAGES))
    batches = [ids[first : first + BATCH] for first in range(0, len(ids), BATCH)]
    for batch in batches:
        start(batch)()
    began, done = _now(device), 0
    waiting = deque([(start(batches[0]), len(batches[0]))])
    for batch in cycle(batches[1:] + batches[:1]):
        waiting.append((start(batch), len(batch)))
        finish, count = waiting.popleft()
        finish()
        done += count
        if time.perf_counter() - began >= limit_s:
            break
    finish, count = waiting.popleft()
    finish()
    return (done + count) / (_now(device) - began)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
