"""Samples come into the page cache when they are asked for, and others stay away."""

import gc
import os
import time

import numpy as np
import pytest

from pipeline.bench.simulate import evict
from pipeline.store.beton import open_beton
from pipeline.store.readahead import Readahead

MB = 1 << 20


@pytest.fixture
def cold(tmp_path):
    """A file of 64 MB that is not in the page cache."""
    path = tmp_path / "x"
    path.write_bytes(np.random.default_rng(0).bytes(64 * MB))
    evict(path)
    try:
        if cached(path, 50 * MB, 4096):
            pytest.skip("this file system keeps its files in memory")
    except OSError as error:
        pytest.skip(f"this file system does not say what is in memory: {error}")
    evict(path)
    return path


def cached(path, at: int, size: int) -> bool:
    """Whether a read would not wait for storage."""
    with path.open("rb", buffering=0) as file:
        try:
            return os.preadv(file.fileno(), [bytearray(size)], at, os.RWF_NOWAIT) == size
        except BlockingIOError:
            return False


def test_what_is_asked_for_is_read_ahead_and_nothing_far_from_it(cold):
    Readahead(cold)(np.array([3 * MB + 5, 20 * MB]), np.array([90_000, 50_000]))
    until = time.monotonic() + 10
    while not (cached(cold, 3 * MB + 5, 90_000) and cached(cold, 20 * MB, 50_000)):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not cached(cold, 40 * MB, 4096)
    assert not cached(cold, 3 * MB + 512 * 1024, 4096)


def test_places_that_cannot_be_read_are_no_error(cold):
    Readahead(cold)(np.array([-5, 10**15]), np.array([10, 10]))


def test_a_file_that_is_no_longer_used_is_closed(beton):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert len(open_beton(beton.path)) == beton.n
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
