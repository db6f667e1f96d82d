"""Check that a .beton file is still what was written: some of it when it is opened, the rest while it is used.

index = read_index(read_layout(Path("train.beton")))

Whatever the size, opening a file checks its header, its length and that the manifest is whole and its own.

*Up to 256 MB of index* (5 million images) the rest of the index is hashed, too, and every row is checked to lie inside
the file, before anything is handed out.

*Above*, opening reads the first and the last of the index's 64 MiB chunks: enough to refuse another file. A thread
hashes all others while the file is in use (100 million images: 4.8 GB, some seconds, which also brings the index into
the page cache), and from the moment it finds damage on, no sample is handed out: a run ends with the next batch. What a
damaged row says is never believed meanwhile: no sample is read beyond the file or written beyond its buffer
(`Beton.where`).

The samples' bytes are checked by `python -m pipeline.store FILE` only, and those of JPEG by the decoder's complaints:
in a store of pixels a flipped bit is a wrong pixel, which nothing else can tell from a right one.
"""

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from pipeline.errors import InputError
from pipeline.store.file_format import ALLOCATION, METADATA_START, SAMPLE, STORES, Layout
from pipeline.store.image_size import possible
from pipeline.store.manifest import CHUNK_BYTES, Manifest

CHECKED_AT_OPEN = 256 << 20  # bytes; some tenths of a second
BLOCK = 24 << 17  # bytes read at once: whole rows of metadata and table


@dataclass(frozen=True)
class Index:
    """What one reading of a whole index found.

    sha256     of the index, hex
    pixels     of all images; `largest`: of the largest
    in_order   entry i of the allocation table is sample i's, as our writer makes it
    """

    sha256: str
    pixels: int
    largest: int
    in_order: bool


def read_index(layout: Layout) -> Index:
    """Read and hash a whole index, some blocks at a time. Raises InputError if a row says what cannot be."""
    pixels, largest, in_order = 0, 0, True
    with layout.path.open("rb", buffering=0) as file:
        index = hashlib.sha256(os.pread(file.fileno(), METADATA_START, 0))
        for block in _blocks(file.fileno(), METADATA_START, layout.metadata_end):
            index.update(block)
            rows = np.frombuffer(block, SAMPLE)["image"]
            heights, widths = rows["height"].astype(np.int64), rows["width"].astype(np.int64)
            areas = heights * widths
            of_store = rows["mode"] == STORES.index(layout.store)
            if not (of_store & possible(widths, heights) & (rows["offset"] <= layout.table_start)).all():
                raise InputError(_not_samples(layout))
            pixels, largest = pixels + int(areas.sum()), max(largest, int(areas.max()))
        rows = _blocks(file.fileno(), METADATA_START, layout.metadata_end)
        for block in _blocks(file.fileno(), layout.table_start, layout.bytes):
            index.update(block)
            entries, most = np.frombuffer(block, ALLOCATION), np.uint64(layout.table_start)
            if ((entries["offset"] > most) | (entries["size"] > most - entries["offset"])).any():
                raise InputError(_not_samples(layout))
            in_order = in_order and _same_places(block, next(rows))
    return Index(index.hexdigest(), pixels, largest, in_order)


def _not_samples(layout: Layout) -> str:
    kind = "JPEG" if layout.store == "jpeg" else layout.store
    return f"{layout.path}: expected {kind} samples inside the file; run pipeline.convert again"


def claimed(layout: Layout, manifest: Manifest) -> Index:
    """The index as the manifest describes it, without reading it. Whether the table is in order is seen at both ends:
    what `pipeline.convert.writer` writes is in order throughout."""
    some = 24 * min(layout.n, 1000)
    with layout.path.open("rb", buffering=0) as file:
        starts = (METADATA_START, layout.table_start), (layout.metadata_end - some, layout.bytes - some)
        read = [[os.pread(file.fileno(), some, at) for at in pair] for pair in starts]
    in_order = all(_same_places(entries, rows) for rows, entries in read)
    return Index(manifest.index_sha256, manifest.pixels["total"], manifest.pixels["largest"], in_order)


def _same_places(entries: bytes, rows: bytes) -> bool:
    return np.array_equal(np.frombuffer(entries, ALLOCATION)["offset"], np.frombuffer(rows, SAMPLE)["image"]["offset"])


def _blocks(file: int, first: int, last: int) -> Iterator[bytes]:
    for at in range(first, last, BLOCK):
        yield os.pread(file, min(BLOCK, last - at), at)


def index_sha256(data: np.ndarray, n: int, table_start: int) -> str:
    """SHA-256 of everything that is not a sample's bytes: header, field descriptors, metadata, allocation table."""
    index = hashlib.sha256(data[: METADATA_START + n * SAMPLE.itemsize].data)
    index.update(data[table_start:].data)
    return index.hexdigest()


def chunks_sha256(data: np.ndarray) -> tuple[str, ...]:
    """SHA-256 of each 64 MiB of a file, hex."""
    starts = range(0, data.size, CHUNK_BYTES)
    with ThreadPoolExecutor(4) as pool:
        return tuple(pool.map(lambda start: hashlib.sha256(data[start : start + CHUNK_BYTES].data).hexdigest(), starts))


def chunk_count(layout: Layout) -> int:
    """How many chunks of 64 MiB a file has, the last of which may be shorter."""
    return -(-layout.bytes // CHUNK_BYTES)


def index_chunks(layout: Layout) -> list[int]:
    """Numbers of the chunks that hold a byte of the index."""
    end, table = layout.metadata_end, layout.table_start // CHUNK_BYTES
    return sorted({*range(-(-end // CHUNK_BYTES)), *range(table, chunk_count(layout))})


def check_chunks(path: Path, manifest: Manifest, chunks: Iterable[int]) -> None:
    """Hash chunks, which are read without being mapped. Raises InputError if one is not as it was written."""
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(4) as pool:
        pairs = pool.map(lambda i: (i, chunk_sha256(file.fileno(), i)), chunks)
        wrong = [i for i, came in pairs if came != manifest.chunk_sha256[i]]
    if wrong:
        raise InputError(_changed(path, wrong[0], len(wrong)))


def chunk_sha256(file: int, i: int) -> str:
    """SHA-256 of chunk i of an open file, hex."""
    chunk = hashlib.sha256()
    for block in _blocks(file, i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES):
        chunk.update(block)
    return chunk.hexdigest()


def _changed(path: Path, chunk: int, many: int) -> str:
    return f"{path}: bytes changed in chunk {chunk} ({many} in all); run pipeline.convert again"


def sampled(layout: Layout, manifest: Manifest) -> "Later":
    """Check the first and the last of an index's chunks now, and the others later.

    Raises InputError if one of the two changed.
    """
    first, *others, last = index_chunks(layout)
    check_chunks(layout.path, manifest, (first, last))
    return Later(layout.path, manifest, others)


@final
class Later:
    """A thread that checks what opening left out; it dies with the process, and does not cross a fork."""

    def __init__(self, path: Path, manifest: Manifest, chunks: list[int]) -> None:
        self._damage: str | None = None
        try:
            self._work = path, path.open("rb", buffering=0), manifest, chunks  # now: the path may come to name another
        except OSError as error:
            self._work, self._damage = None, f"{path} can no longer be read: {error}"
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    def so_far(self) -> None:
        """Raise InputError if damage has been found by now."""
        if self._damage:
            raise InputError(self._damage)

    def wait(self) -> None:
        """Wait for the end of the check. Raises InputError if there is damage."""
        self._thread.join()
        self.so_far()

    def _run(self) -> None:
        if self._work is None:
            return
        path, opened, manifest, chunks = self._work
        try:
            with opened as file:
                for i in chunks:
                    if chunk_sha256(file.fileno(), i) != manifest.chunk_sha256[i]:
                        self._damage = _changed(path, i, 1)
                        return
        except OSError as error:
            self._damage = f"{path} can no longer be read: {error}"
