"""What is found when an index is damaged; here a megabyte counts as large, and a chunk has 64 KiB."""

import os
from dataclasses import replace

import numpy as np
import pytest

from pipeline.bench import sparse_file
from pipeline.errors import InputError
from pipeline.labels.splits import make_split, save_split
from pipeline.store import integrity
from pipeline.store.beton import Column, open_beton
from pipeline.store.file_format import ALLOCATION, METADATA_START, SAMPLE, read_layout
from pipeline.store.manifest import manifest_path, to_json
from tests.checksummed import rewrite

N, CHUNK = 30_000, 1 << 16


@pytest.fixture
def large(tmp_path, monkeypatch):
    for module in (integrity, sparse_file):
        monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr("pipeline.store.beton.CHECKED_AT_OPEN", 1 << 20)
    path = tmp_path / "train.beton"
    sparse_file.write_sparse(path, N)
    return path


def flip(path, at: int) -> None:
    with path.open("rb+") as file:
        os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, at)[0] ^ 4]), at)


def test_a_whole_index_settles_and_its_chunks_are_those_of_both_ends_of_the_file(large):
    layout, beton = read_layout(large), open_beton(large)
    beton.settle()
    assert beton.where(np.arange(5))[0][0] == layout.metadata_end
    chunks = set(integrity.index_chunks(layout))
    touched = {at // CHUNK for at in [*range(0, layout.metadata_end, 24), *range(layout.table_start, layout.bytes, 24)]}
    assert chunks == touched | {(layout.bytes - 1) // CHUNK}


def test_a_flipped_bit_anywhere_in_a_large_index_is_found_at_once_or_soon(large):
    layout = read_layout(large)
    chunks = integrity.index_chunks(layout)
    places = [layout.metadata_end - 1, layout.table_start, layout.bytes - 1]
    places += range(METADATA_START, layout.metadata_end, 99_991)
    places += range(layout.table_start, layout.bytes, 99_991)
    for at in places:
        flip(large, at)
        if at // CHUNK in (chunks[0], chunks[-1]):
            with pytest.raises(InputError, match=rf"bytes changed in chunk {at // CHUNK} "):
                open_beton(large)
        else:
            beton = open_beton(large)
            with pytest.raises(InputError, match=rf"bytes changed in chunk {at // CHUNK} "):
                beton.settle()
            with pytest.raises(InputError, match="bytes changed"):
                beton.where(np.arange(3))
        flip(large, at)
    open_beton(large).settle()


def test_a_flipped_bit_in_an_image_is_no_damage_of_the_index(large):
    layout = read_layout(large)
    flip(large, (layout.metadata_end + layout.table_start) // 2)
    open_beton(large).settle()


def test_no_split_is_written_for_a_damaged_index(large):
    flip(large, METADATA_START + 24 * 5000 + 16)  # a label
    beton = open_beton(large)
    with pytest.raises(InputError, match="bytes changed"):
        save_split(beton, make_split(beton, per_class=1))
    assert not list(large.parent.glob("*.split-*"))


@pytest.mark.parametrize(("column", "value"), [
    ("offsets", 0), ("offsets", -5), ("offsets", 2**62), ("sizes", 0), ("sizes", 2**62), ("sizes", -1), ("heights", 0),
    ("heights", 60_000),
])  # fmt: skip
def test_what_a_row_cannot_say_is_not_believed_before_the_check_has_come_there(large, column, value):
    beton = open_beton(large)
    numbers = getattr(beton, column)[:]
    numbers[7] = value
    wrong = replace(beton, **{column: Column(numbers)})
    assert len(wrong.where(np.array([6, 8]))) == 4
    with pytest.raises(InputError, match="the index is wrong about image 7;"):
        wrong.where(np.array([6, 7, 8]))


def test_the_end_of_a_file_is_no_place_for_a_sample_to_cross(large):
    beton = open_beton(large)
    last = N - 1
    end = beton.offsets[last] + beton.sizes[last]
    assert end == beton.layout.table_start
    sizes = beton.sizes[:]
    sizes[last] += 1
    with pytest.raises(InputError, match=f"wrong about image {last}"):
        replace(beton, sizes=Column(sizes)).where(np.array([last]))


def test_an_index_that_can_no_longer_be_read_is_damage(large):
    layout, beton = read_layout(large), open_beton(large)
    beton.settle()
    missing = large.with_name("gone.beton")
    later = integrity.Later(missing, beton.manifest, [1])
    with pytest.raises(InputError, match="can no longer be read"):
        later.wait()
    assert layout.n == N


def test_what_a_manifest_says_of_a_large_index_is_what_reading_it_finds(large, monkeypatch):
    claimed = open_beton(large)
    monkeypatch.setattr("pipeline.store.beton.CHECKED_AT_OPEN", 1 << 30)
    read = open_beton(large)
    assert read.later is None
    assert claimed.later is not None
    assert (read.pixels, read.largest, read.digest) == (claimed.pixels, claimed.largest, claimed.digest)
    areas = read.heights[:] * read.widths[:]
    assert (read.pixels, read.largest) == (areas.sum(), areas.max())


@pytest.mark.parametrize("change", [{"index_sha256": "0" * 64}, {"chunk_sha256": ["0" * 64]}, {"chunk_sha256": []}])
def test_a_manifest_that_claims_another_index_or_too_few_chunks_is_refused(large, change):
    rewrite(manifest_path(large), **change)
    with pytest.raises(InputError, match="not the file that its manifest was made for"):
        open_beton(large)


@pytest.mark.parametrize("checked_at_open", [1 << 20, 1 << 30])
def test_a_table_in_another_order_is_joined(large, checked_at_open, monkeypatch):
    """As stock FFCV writes it, whose workers come as they come."""
    monkeypatch.setattr("pipeline.store.beton.CHECKED_AT_OPEN", checked_at_open)
    straight, layout = open_beton(large), read_layout(large)
    offsets, sizes = straight.offsets[:], straight.sizes[:]
    data = np.memmap(large, np.uint8, mode="r+")
    table = data[layout.table_start :].view(ALLOCATION)
    table[:] = table[np.random.default_rng(0).permutation(N)]
    data.flush()
    manifest_path(large).write_text(to_json(sparse_file._manifest(large, N)))
    joined = open_beton(large)
    assert np.array_equal(joined.offsets[:], offsets)
    assert np.array_equal(joined.sizes[:], sizes)
    rows = data[METADATA_START : layout.metadata_end].view(SAMPLE)
    rows["image"]["offset"][5] += 1
    data.flush()
    manifest_path(large).write_text(to_json(sparse_file._manifest(large, N)))
    with pytest.raises(InputError, match="samples without an entry"):
        open_beton(large)


def test_rows_that_no_file_has_are_refused_even_if_the_manifest_vouches_for_them(large, monkeypatch):
    monkeypatch.setattr("pipeline.store.beton.CHECKED_AT_OPEN", 1 << 30)
    layout = read_layout(large)
    data = np.memmap(large, np.uint8, mode="r+")
    rows, table = data[METADATA_START : layout.metadata_end].view(SAMPLE), data[layout.table_start :].view(ALLOCATION)
    for change in (
        (rows["image"]["mode"], 1), (rows["image"]["height"], 0), (rows["image"]["offset"], layout.bytes),
        (table["size"], layout.bytes), (table["offset"], layout.bytes),
    ):  # fmt: skip
        column, value = change
        before, column[9] = column[9], value
        with pytest.raises(InputError, match="JPEG samples inside the file"):
            open_beton(large)
        column[9] = before
    open_beton(large)
