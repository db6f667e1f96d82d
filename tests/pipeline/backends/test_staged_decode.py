"""A batch decoded in parts through few buffers has the same pixels, whatever else uses the buffers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from pipeline.backends import kernels, libffcv
from pipeline.backends.backend import sample_source
from pipeline.backends.staged_decode import StagedDecode, parts
from pipeline.backends.staging_buffers import StagingBuffers
from pipeline.concurrency.pool import Pool
from pipeline.executors.gpu_views import as_rgb

CPU = torch.device("cpu")


@pytest.fixture
def pool():
    libffcv.load()
    pool = Pool(2, lambda: kernels.scratch(1, 1))
    yield pool
    pool.close()


def room_for(beton, images: int) -> int:
    return images * int((beton.heights[:] * beton.widths[:]).max())


def decoded(beton, ids, pool: Pool, buffers: StagingBuffers) -> list[np.ndarray]:
    found = []
    on_its_way = StagedDecode(sample_source(beton, ids), pool, buffers)
    for images, part in on_its_way.to(CPU):
        packed = as_rgb(part)
        sides = zip(beton.heights[ids[images]], beton.widths[ids[images]], strict=True)
        for place, (height, width) in zip(packed.places, sides, strict=True):
            found.append(packed.pixels[place : place + height * width].numpy().reshape(height, width, 3).copy())
    assert not on_its_way.errors.any()
    return found


def plain(beton, ids) -> list[np.ndarray | None]:
    return [libffcv.decode(beton.jpeg(i), int(beton.heights[i]), int(beton.widths[i])) for i in ids]


@given(some.lists(some.integers(1, 9), max_size=20), some.integers(9, 30))
def test_parts_are_the_fewest_runs_that_fit(pixels: list[int], room: int) -> None:
    runs = list(parts(np.array(pixels, np.int64), room))
    assert [i for run in runs for i in range(run.start, run.stop)] == list(range(len(pixels)))
    assert all(sum(pixels[run]) <= room for run in runs)
    fewest = [0] + [0] * len(pixels)  # by definition: the last run may begin anywhere
    for end in range(1, len(pixels) + 1):
        fewest[end] = 1 + min(fewest[start] for start in range(end) if sum(pixels[start:end]) <= room)
    assert len(runs) == fewest[-1]


@pytest.mark.parametrize(("slots", "images"), [(1, 1), (2, 3), (4, 1000)])
def test_pixels_do_not_depend_on_the_buffers(beton, pool, slots: int, images: int) -> None:
    ids = np.arange(beton.n)[::-1].copy()
    buffers = StagingBuffers(slots, room_for(beton, images), CPU)
    for came, expected in zip(decoded(beton, ids, pool, buffers), plain(beton, ids), strict=True):
        assert np.array_equal(came, expected)


def test_a_batch_begun_late_waits_for_one_begun_early_and_for_no_other(beton, pool) -> None:
    """What a planner does: two batches begun, then finished in turn, while another planner does the same."""
    ids, buffers = np.arange(12), StagingBuffers(1, room_for(beton, 1), CPU)

    def planner() -> list[list[int]]:
        began = [StagedDecode(sample_source(beton, part), pool, buffers) for part in (ids[:4], ids)]
        return [[len(packed.places) for _, packed in each.to(CPU)] for each in began]

    with ThreadPoolExecutor(3) as planners:
        for counts in [future.result(timeout=60) for future in [planners.submit(planner) for _ in range(3)]]:
            assert [sum(count) for count in counts] == [4, 12]


def test_a_batch_left_half_way_gives_its_buffers_back(beton, pool) -> None:
    ids, buffers = np.arange(10), StagingBuffers(2, room_for(beton, 1), CPU)
    for _ in StagedDecode(sample_source(beton, ids), pool, buffers).to(CPU):
        break
    assert len(decoded(beton, ids, pool, buffers)) == 10


def test_a_buffer_is_lent_to_one_at_a_time() -> None:
    buffers, lent = StagingBuffers(2, 10, CPU), []
    for _ in range(5):
        buffers.request(lent.append)
    assert len(lent) == 2
    buffers.give_back(lent[0])
    assert len(lent) == 3
    assert lent[2].pixels.data_ptr() == lent[0].pixels.data_ptr() != lent[1].pixels.data_ptr()


def test_every_image_begins_at_an_odd_address_and_fits(beton, pool) -> None:
    """libjpeg-turbo writes rows at multiples of 32 bytes past the cache, which costs up to an eighth of the decode."""
    largest = int(np.argmax(beton.heights[:] * beton.widths[:]))
    ids = np.array([largest, 3, 4, largest, 5])
    buffers = StagingBuffers(1, room_for(beton, 1), CPU)
    for _, part in StagedDecode(sample_source(beton, ids), pool, buffers, planes=False).to(CPU):
        assert part.data.data_ptr() % 2 == 0
        assert (part.places % 2 == 1).all()
    assert kernels.scratch(10, 1).pixels.ctypes.data % 2 == 1
