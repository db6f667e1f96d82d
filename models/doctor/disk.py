"""Measure how fast a file is read: from its disk, past the page cache, and from the page cache.

rates = read_rates(Path("train.beton"), limit_s=3)
"""

import contextlib
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

BLOCK = 1 << 20
THREADS = 8
MOST = 512
"""Blocks that are read at most."""


class ReadRates(NamedTuple):
    """Bytes a second, in blocks of 1 MiB in random order by 8 threads.

    disk    past the page cache
    cache   of the same blocks once they are in the page cache
    direct  whether the file system reads past the cache (O_DIRECT); else the file's pages were dropped before, which a
            file system may ignore, and `disk` may then be the rate of its own cache
    """

    disk: float
    cache: float
    direct: bool


def read_rates(path: Path, limit_s: float) -> ReadRates:
    """Measure both rates, each for `limit_s` seconds at most."""
    blocks = max(1, path.stat().st_size // BLOCK)
    order = np.random.default_rng(0).permutation(blocks)[:MOST] * BLOCK
    direct = True
    try:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECT)
        with contextlib.suppress(OSError):
            os.preadv(opened, [mmap.mmap(-1, BLOCK)], 0)
    except OSError:  # tmpfs and some network file systems have none
        opened, direct = os.open(path, os.O_RDONLY), False
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
    with contextlib.ExitStack() as ending:
        ending.callback(os.close, opened)
        disk, done = _rate(opened, order, limit_s)
        plain = os.open(path, os.O_RDONLY)
        ending.callback(os.close, plain)
        held = order[:done]
        _rate(plain, held, limit_s)
        cache, _ = _rate(plain, held, limit_s)
    return ReadRates(disk, cache, direct)


def _rate(opened: int, offsets: np.ndarray, limit_s: float) -> tuple[float, int]:
    """Read blocks until the time is up; return bytes a second, and how many blocks were read."""
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        read = _reader(opened, began + limit_s)
        sizes = [size for size in threads.map(read, offsets.tolist()) if size]
    return sum(sizes) / (time.perf_counter() - began), max(1, len(sizes))


def _reader(opened: int, until: float) -> Callable[[int], int]:
    def read(offset: int) -> int:
        if time.perf_counter() > until:
            return 0
        with mmap.mmap(-1, BLOCK) as block:  # a page's address is what O_DIRECT wants
            return os.preadv(opened, [block], offset)

    return read
