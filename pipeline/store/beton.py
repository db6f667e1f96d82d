"""Read a .beton file: where each sample's bytes lie.  `python -m pipeline.store FILE` checks every byte of it.

The layout is FFCV's (pipeline.store.file_format), read here with numpy because `import ffcv` takes seconds and its
reader builds a Python dict of all samples. The index stays in the file, memory-mapped: a file of 100 million images
opens in about a second, and what is used of its index lies in the page cache, once for all ranks of a machine.

Labels are in the file, but not in `Beton`: `pipeline.labels.splits` hands out those that a split allows.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from pipeline.errors import InputError, Unavailable
from pipeline.store.file_format import (
    ALLOCATION,
    METADATA_START,
    Layout,
    Store,
    metadata,
    read_layout,
    stored_bytes,
)
from pipeline.store.image_size import possible
from pipeline.store.integrity import (
    CHECKED_AT_OPEN,
    Index,
    Later,
    check_chunks,
    chunk_count,
    claimed,
    read_index,
    sampled,
)
from pipeline.store.manifest import Manifest, identity, manifest_path, read_manifest
from pipeline.store.pending import candidates
from pipeline.store.readahead import Readahead
from pipeline.store.sigbus import guard


@final
class Column:
    """One number of every sample, i64 however it is stored; only what is asked for is read."""

    def __init__(self, stored: np.ndarray) -> None:
        self._stored = stored

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, ids: Any) -> Any:
        """Of one sample, a slice or ids (i64 [N]): i64, i64 [N]; `[:]` copies all of them."""
        return self._stored[ids].astype(np.int64)


@final
@dataclass(frozen=True, eq=False)
class Beton:
    """An open .beton file; memory maps and arrays, so it may cross a fork, and pickling it opens it anew.

    heights, widths  of n          pixels
    offsets, sizes   of n          sample i is data[offsets[i] : offsets[i] + sizes[i]]
    data             u8 [bytes]    the whole file, memory-mapped, read-only
    pixels, largest                of all images, and of the largest
    fetch(offsets, sizes)          begins to read samples that a thread will soon touch
    """

    layout: Layout
    manifest: Manifest
    heights: Column = field(repr=False)
    widths: Column = field(repr=False)
    offsets: Column = field(repr=False)
    sizes: Column = field(repr=False)
    data: np.ndarray = field(repr=False)
    pixels: int
    largest: int
    later: Later | None = field(repr=False)
    readahead: Readahead = field(repr=False)

    @property
    def path(self) -> Path:
        """The file."""
        return self.layout.path

    @property
    def store(self) -> Store:
        """What its samples are (pipeline.store.file_format)."""
        return self.layout.store

    @property
    def n(self) -> int:
        """Samples."""
        return self.layout.n

    @property
    def digest(self) -> str:
        """The file's identity (see pipeline.store.manifest)."""
        return self.manifest.digest

    def __len__(self) -> int:
        return self.n

    def where(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Offsets, sizes, heights and widths of samples `ids` (i64 [N] each), fit for code that checks no bounds.

        Raises InputError if the index is known to be damaged by now (pipeline.store.integrity), or says of one of them
        what cannot be.
        """
        if self.later is not None:
            self.later.so_far()
        offsets, sizes, heights, widths = (each[ids] for each in (self.offsets, self.sizes, self.heights, self.widths))
        most = self.layout.table_start
        fit = (offsets >= METADATA_START) & (sizes > 0) & (sizes <= most) & (offsets <= most - sizes)
        fit &= possible(widths, heights, self.largest)
        if (expected := stored_bytes(self.store, heights, widths)) is not None:
            fit &= sizes == expected
        if not fit.all():
            bad = ids[np.flatnonzero(~fit)[0]]
            raise InputError(f"{self.path}: the index is wrong about image {bad}; run pipeline.convert again")
        return offsets, sizes, heights, widths

    def jpeg(self, i: int) -> np.ndarray:
        """The stored JPEG of sample i: u8 [size], a view of the memory map. Raises InputError in a store of pixels."""
        if self.store != "jpeg":
            raise InputError(f"{self.path} holds no JPEG: its images are stored as {self.store}")
        start = self.offsets[i]
        return self.data[start : start + self.sizes[i]]

    def settle(self) -> None:
        """Wait until all of the index has been checked. Raises InputError if it is damaged."""
        if self.later is not None:
            self.later.wait()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.path.absolute(), self.digest)


def _reopened(path: Path, digest: str) -> Beton:
    """Open a file again. Raises InputError if it was replaced since, by one of other images or labels."""
    beton = open_beton(path)
    if beton.digest != digest:
        raise InputError(f"{path} was replaced by another file while it was in use; start again")
    return beton


def open_beton(path: str | Path, *, verify: bool = False) -> Beton:
    """Open a .beton file that its manifest vouches for; `verify` also checks the SHA-256 of every chunk.

    Raises InputError if the file or its manifest is missing, unfinished, truncated, changed (pipeline.store.integrity
    says what is found when), of other fields than (RGB image, integer label), or if the manifest was written for
    another file.
    """
    path = Path(path)
    while True:
        before = _inode(path)
        try:
            opened = _open(path, verify)
        except ValueError:  # an InputError is one
            if _inode(path) == before:
                raise
        except OSError as error:
            if _inode(path) == before:
                kind = InputError if isinstance(error, PermissionError) else Unavailable
                raise kind(f"{path} cannot be read: {error.strerror}") from error
        else:
            if _inode(path) == before:
                return opened
        # a conversion replaced the file meanwhile: what was read may be parts of two files


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open(path: Path, verify: bool) -> Beton:
    layout = read_layout(path)
    manifest, index, later = _vouched(layout, verify)
    if verify:
        check_chunks(layout.path, manifest, range(len(manifest.chunk_sha256)))
    data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    guard(data, path)
    rows, table = metadata(data, layout.n)["image"], data[layout.table_start :].view(ALLOCATION)
    sizes = table["size"] if index.in_order else _joined(layout.path, rows["offset"], table)
    columns = (Column(each) for each in (rows["height"], rows["width"], rows["offset"], sizes))
    return Beton(layout, manifest, *columns, data, index.pixels, index.largest, later, Readahead(layout.path))


def _vouched(layout: Layout, verify: bool) -> tuple[Manifest, Index, Later | None]:
    """The manifest that fits the file (pipeline.store.pending), what is known of the index, and the check that goes
    on; raises the first manifest's InputError if none fits."""
    errors = []
    for path in candidates(manifest_path(layout.path)) or [manifest_path(layout.path)]:
        try:
            return _fitting(layout, read_manifest(layout.path, path), verify)
        except InputError as error:
            errors.append(error)
    raise errors[0]


def _fitting(layout: Layout, manifest: Manifest, verify: bool) -> tuple[Manifest, Index, Later | None]:
    if (manifest.n, manifest.bytes) != (layout.n, layout.bytes):
        came, expected = f"{layout.n} samples in {layout.bytes} bytes", f"{manifest.n} in {manifest.bytes}"
        raise InputError(f"{layout.path} has {came}, its manifest was made for {expected}; run pipeline.convert again")
    whole = verify or layout.index_bytes <= CHECKED_AT_OPEN
    index = read_index(layout) if whole else claimed(layout, manifest)
    known = identity(index.sha256, manifest.classes, manifest.names_sha256, manifest.chunk_sha256)
    if known != manifest.digest or len(manifest.chunk_sha256) != chunk_count(layout):
        raise InputError(f"{layout.path} is not the file that its manifest was made for; run pipeline.convert again")
    return manifest, index, None if whole else sampled(layout, manifest)


def _joined(path: Path, offsets: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The allocation table's sizes in the metadata's order: u64 [n], ALLOCATION [n] -> u64 [n].

    For files of stock FFCV, whose table is in the order in which its workers came.
    """
    order = np.argsort(table["offset"], kind="stable")
    starts = table["offset"][order]
    place = np.minimum(np.searchsorted(starts, offsets), max(starts.size - 1, 0))
    if not np.array_equal(starts[place], offsets):
        raise InputError(f"{path}: samples without an entry in the allocation table; run pipeline.convert again")
    return table["size"][order][place]
