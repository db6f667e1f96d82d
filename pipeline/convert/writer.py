"""Write FFCV's .beton format as a stream: one process, no /dev/shm, equal bytes for equal samples.

written = write(Path("train.beton.partial"), samples, capacity=1_281_167)

Until the last step the header is zero, so a file that a kill left behind can be told from a finished one.
"""

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from pipeline.errors import InputError
from pipeline.store.file_format import (
    ALLOCATION,
    HEADER,
    METADATA_START,
    SAMPLE,
    STORES,
    VERSION,
    Store,
    described,
)

PAGE_BYTES = 8 << 20  # FFCV's default; no sample may cross a page
MAX_PAGE_BYTES = 1 << 31


class Sample(NamedTuple):
    """One stored sample; label -1 is unlabelled."""

    data: bytes
    height: int
    width: int
    label: int


@dataclass(frozen=True)
class Written:
    """The metadata rows SAMPLE [n] and allocation table ALLOCATION [n] of a finished file, what its samples are, and
    the CRC-32 of each as it was handed to the disk, u32 [n]."""

    samples: np.ndarray
    table: np.ndarray
    store: Store
    crc32: np.ndarray


def write(path: Path, samples: Iterable[Sample], capacity: int, store: Store = "jpeg") -> Written:
    """Write samples in the order they come, fsync, then write the header; at most `capacity` of them.

    Row i of the metadata and entry i of the allocation table are the same sample's: readers of large files count on it.

    Raises InputError if there are more samples than `capacity`, or one is larger than 2 GiB.
    """
    rows, table, crc32 = np.zeros(capacity, SAMPLE), np.zeros(capacity, ALLOCATION), np.zeros(capacity, np.uint32)
    page_bytes, n = PAGE_BYTES, 0
    with path.open("wb") as file:
        end = METADATA_START + capacity * SAMPLE.itemsize
        for sample in samples:
            if n == capacity:
                raise InputError(f"{path}: expected at most {capacity} samples, got more")
            page_bytes = _page_bytes(page_bytes, len(sample.data))
            start = _start(end, len(sample.data), page_bytes)
            file.seek(start)  # what is skipped reads as zeros
            file.write(sample.data)
            rows[n] = ((STORES.index(store), sample.width, sample.height, start), sample.label)
            table[n] = (n, start, len(sample.data))
            crc32[n] = zlib.crc32(sample.data)
            n, end = n + 1, start + len(sample.data)
        written = Written(rows[:n], table[:n], store, crc32[:n])
        _finish(file, end, page_bytes, written)
    return written


def _page_bytes(page_bytes: int, size: int) -> int:
    """The page size, doubled until a sample fits: earlier samples still cross no page, every larger page being whole
    smaller ones."""
    while size > page_bytes:
        page_bytes *= 2
    if page_bytes > MAX_PAGE_BYTES:
        raise InputError(f"expected samples up to {MAX_PAGE_BYTES} bytes, got one of {size}")
    return page_bytes


def _start(end: int, size: int, page_bytes: int) -> int:
    """Where the next sample starts: right after the last one, or on the next page if it would cross into it."""
    fits = end // page_bytes == (end + size - 1) // page_bytes
    return end if fits else (end // page_bytes + 1) * page_bytes


def _finish(file: BinaryIO, end: int, page_bytes: int, written: Written) -> None:
    header = np.array([(VERSION, 2, page_bytes, len(written.samples), end)], HEADER)
    file.seek(end)
    file.write(written.table.tobytes())
    file.seek(HEADER.itemsize)
    file.write(described(written.store).tobytes() + written.samples.tobytes())
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    file.write(header.tobytes())
    file.flush()
    os.fsync(file.fileno())
