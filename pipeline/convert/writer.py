"""Write FFCV's .beton format as a stream: one process, no /dev/shm, equal bytes for equal samples.

written = write(Path("train.beton.partial"), samples, capacity=1_281_167)

Until the last step the header is zero, so a file that a kill left behind can be told from a finished one.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from pipeline.errors import InputError
from pipeline.store.file_format import ALLOCATION, FIELD, HEADER, INT, METADATA_START, RGB_IMAGE, SAMPLE, VERSION

PAGE_BYTES = 8 << 20  # FFCV's default; no sample may cross a page
MAX_PAGE_BYTES = 1 << 31


class Sample(NamedTuple):
    """One stored sample; label -1 is unlabelled."""

    jpeg: bytes
    height: int
    width: int
    label: int


@dataclass(frozen=True)
class Written:
    """The metadata rows SAMPLE [n] and allocation table ALLOCATION [n] of a finished file."""

    samples: np.ndarray
    table: np.ndarray


def write(path: Path, samples: Iterable[Sample], capacity: int) -> Written:
    """Write samples in the order they come, fsync, then write the header; at most `capacity` of them.

    Row i of the metadata and entry i of the allocation table are the same sample's: readers of large files count on it.

    Raises InputError if there are more samples than `capacity`, or one is larger than 2 GiB.
    """
    rows, table = np.zeros(capacity, SAMPLE), np.zeros(capacity, ALLOCATION)
    page_bytes, n = PAGE_BYTES, 0
    with path.open("wb") as file:
        end = METADATA_START + capacity * SAMPLE.itemsize
        for sample in samples:
            if n == capacity:
                raise InputError(f"{path}: expected at most {capacity} samples, got more")
            page_bytes = _page_bytes(page_bytes, len(sample.jpeg))
            start = _start(end, len(sample.jpeg), page_bytes)
            file.seek(start)  # what is skipped reads as zeros
            file.write(sample.jpeg)
            rows[n] = ((0, sample.width, sample.height, start), sample.label)
            table[n] = (n, start, len(sample.jpeg))
            n, end = n + 1, start + len(sample.jpeg)
        rows, table = rows[:n], table[:n]
        _finish(file, end, page_bytes, rows, table)
    return Written(rows, table)


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


def _finish(file: BinaryIO, end: int, page_bytes: int, rows: np.ndarray, table: np.ndarray) -> None:
    fields = np.zeros(2, FIELD)
    fields["type"], fields["name"] = (RGB_IMAGE, INT), (b"image", b"label")
    header = np.array([(VERSION, 2, page_bytes, len(rows), end)], HEADER)
    file.seek(end)
    file.write(table.tobytes())
    file.seek(HEADER.itemsize)
    file.write(fields.tobytes() + rows.tobytes())
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    file.write(header.tobytes())
    file.flush()
    os.fsync(file.fileno())
