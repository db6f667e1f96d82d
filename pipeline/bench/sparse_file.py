"""Write a .beton whose images are holes in the file: its index is complete, and its images take no disk.

It measures what an index costs (pipeline.bench.simulate): 48 bytes of disk an image, some seconds for 100 million.

    write_sparse(Path("train.beton"), n=100_000_000)
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import rng
from pipeline.store.file_format import (
    ALLOCATION,
    HEADER,
    METADATA_START,
    SAMPLE,
    VERSION,
    described,
    read_layout,
)
from pipeline.store.integrity import chunk_sha256, index_chunks, read_index
from pipeline.store.manifest import CHUNK_BYTES, FORMAT, Manifest, identity, manifest_path, to_json

BLOCK = 1 << 20
CLASSES = tuple(map(str, range(1000)))


class Images(NamedTuple):
    """Some of the images: ids, sizes, heights, widths, labels i64 [N]."""

    ids: np.ndarray
    sizes: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    labels: np.ndarray


def images(n: int) -> Iterator[Images]:
    """Yield all of n images in order, the same each time: 20 to 90 kB (mean 55), sides of 300 to 500 pixels, 1000
    classes."""
    for first in range(0, n, BLOCK):
        ids = np.arange(first, min(first + BLOCK, n))
        chance = rng.mix(ids.astype(np.uint64))
        parts = [(chance >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64) for shift in (0, 16, 32, 48)]
        scaled = [
            low + part * width // 65536
            for part, low, width in zip(parts, (20_000, 300, 300, 0), (70_000, 201, 201, 1000), strict=True)
        ]
        yield Images(ids, *scaled)


def write_sparse(path: Path, n: int) -> None:
    """Write the file and its manifest; the index is what pipeline.convert.writer would write for such images."""
    end = METADATA_START + n * SAMPLE.itemsize
    with path.open("wb") as file:
        file.seek(METADATA_START)
        for some in images(n):
            rows = np.zeros(len(some.ids), SAMPLE)
            rows["image"]["height"], rows["image"]["width"], rows["label"] = some.heights, some.widths, some.labels
            rows["image"]["offset"] = end + np.cumsum(some.sizes) - some.sizes
            end += int(some.sizes.sum())
            file.write(rows.tobytes())
        table, at = end, METADATA_START + n * SAMPLE.itemsize
        file.seek(table)
        for some in images(n):
            entries = np.zeros(len(some.ids), ALLOCATION)
            entries["sample"], entries["size"] = some.ids, some.sizes
            entries["offset"] = at + np.cumsum(some.sizes) - some.sizes
            at += int(some.sizes.sum())
            file.write(entries.tobytes())
        fields = described("jpeg")
        file.seek(0)
        file.write(np.array([(VERSION, 2, 1 << 23, n, table)], HEADER).tobytes() + fields.tobytes())
    manifest_path(path).write_text(to_json(_manifest(path, n)), encoding="utf-8")


def _manifest(path: Path, n: int) -> Manifest:
    layout = read_layout(path)
    index, hole = read_index(layout), hashlib.sha256(bytes(CHUNK_BYTES)).hexdigest()
    chunks = [hole] * -(-layout.bytes // CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        for i in index_chunks(layout):
            chunks[i] = chunk_sha256(file.fileno(), i)
    counts, names = np.sum([np.bincount(some.labels, minlength=len(CLASSES)) for some in images(n)], 0), "0" * 64
    return Manifest(
        format=FORMAT, n=n, classes=CLASSES, class_counts=tuple(counts.tolist()), n_unlabelled=0, bytes=layout.bytes,
        digest=identity(index.sha256, CLASSES, names, tuple(chunks)), chunk_sha256=tuple(chunks), names_sha256=names,
        rejected=(), n_passed_through=0, n_re_encoded=0, n_resized=0, side={"min": 300, "mean": 434.0, "max": 500},
        stored_kb={"mean": 55.0, "p50": 55.0, "p99": 89.3}, decode_images_per_s=0.0, measured_decode=False, versions={},
        arguments={}, seconds=0.0, ignored={}, index_sha256=index.sha256,
        pixels={"total": index.pixels, "largest": index.largest}, deep=None,
        kinds={}, n_first_frames=0, dropped_bytes=0, notes=(),
    )  # fmt: skip
