"""Read a .beton file: where each sample's bytes lie.  `python -m pipeline.beton FILE` checks every byte of it.

The format is FFCV's (version 2): header, field descriptors, one metadata row a sample, JPEG bytes, allocation table.
It is parsed here with numpy because `import ffcv` takes seconds and its reader builds a Python dict of all samples.
Labels are in the file, but not in `Beton`: `pipeline.split` hands out those that a split allows.
"""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from pipeline.bus import guard
from pipeline.errors import InputError, command
from pipeline.manifest import CHUNK_BYTES, Manifest, identity, read_manifest

VERSION, RGB_IMAGE, INT = 2, 2, 1
HEADER = np.dtype([("version", "<u2"), ("fields", "<u2"), ("page_bytes", "<u4"), ("n", "<u8"), ("table", "<u8")])
FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("offset", "<u8")])
SAMPLE = np.dtype({"names": ["image", "label"], "formats": [IMAGE, "<i8"], "offsets": [0, 16], "itemsize": 24})
ALLOCATION = np.dtype([("sample", "<u8"), ("offset", "<u8"), ("size", "<u8")])
METADATA_START = HEADER.itemsize + 2 * FIELD.itemsize


@final
@dataclass(frozen=True, eq=False)
class Beton:
    """An open .beton file; only memory maps and arrays, so it may cross a fork, and pickling it opens it anew.

    heights, widths  i64 [n]      pixels
    offsets, sizes   i64 [n]      sample i is data[offsets[i] : offsets[i] + sizes[i]]
    data             u8 [bytes]   the whole file, memory-mapped, read-only
    """

    path: Path
    manifest: Manifest
    n: int
    heights: np.ndarray = field(repr=False)
    widths: np.ndarray = field(repr=False)
    offsets: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    data: np.ndarray = field(repr=False)

    @property
    def digest(self) -> str:
        """The file's identity (see pipeline.manifest)."""
        return self.manifest.digest

    def __len__(self) -> int:
        return self.n

    def jpeg(self, i: int) -> np.ndarray:
        """The stored JPEG of sample i: u8 [size], a view of the memory map."""
        start = self.offsets[i]
        return self.data[start : start + self.sizes[i]]

    def __reduce__(self) -> tuple[Any, ...]:
        return open_beton, (self.path.absolute(),)


def open_beton(path: str | Path, *, verify: bool = False) -> Beton:
    """Open a .beton file that its manifest vouches for; `verify` also checks the SHA-256 of every chunk.

    Raises InputError if the file or its manifest is missing, unfinished, truncated, changed, of other fields than
    (RGB image, integer label), or if the manifest was written for another file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; write it with pipeline.convert")
    if path.stat().st_size < METADATA_START:
        raise InputError(f"{path} is unfinished or truncated (no complete header); run pipeline.convert again")
    data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    guard(data, Path(path))
    n, table_start = _header(path, data)
    manifest = read_manifest(path)
    _belongs(path, data, manifest, n, table_start)
    if verify:
        _chunks_hold(path, data, manifest)
    rows, table = metadata(data, n)["image"], data[table_start:].view(ALLOCATION)
    sizes = _sizes(path, rows["offset"], table)
    heights, widths, offsets = (rows[name].astype(np.int64) for name in ("height", "width", "offset"))
    if n and (rows["mode"].any() or not heights.all() or not widths.all() or (offsets + sizes).max() > table_start):
        raise InputError(f"{path}: expected JPEG samples that lie inside the file; run pipeline.convert again")
    for array in (heights, widths, offsets, sizes):
        array.setflags(write=False)
    return Beton(path, manifest, n, heights, widths, offsets, sizes, data)


def metadata(data: np.ndarray, n: int) -> np.ndarray:
    """The metadata rows of a file: SAMPLE [n], a view of `data`. Holds the labels: see pipeline.split."""
    return data[METADATA_START : METADATA_START + n * SAMPLE.itemsize].view(SAMPLE)


def index_sha256(data: np.ndarray, n: int, table_start: int) -> str:
    """SHA-256 of everything that is not JPEG: header, field descriptors, metadata, allocation table."""
    index = hashlib.sha256(data[: METADATA_START + n * SAMPLE.itemsize])
    index.update(data[table_start:])
    return index.hexdigest()


def chunks_sha256(data: np.ndarray) -> tuple[str, ...]:
    """SHA-256 of each 64 MiB of a file, hex."""
    starts = range(0, data.size, CHUNK_BYTES)
    with ThreadPoolExecutor(4) as pool:
        return tuple(pool.map(lambda start: hashlib.sha256(data[start : start + CHUNK_BYTES]).hexdigest(), starts))


def _header(path: Path, data: np.ndarray) -> tuple[int, int]:
    """Number of samples and start of the allocation table, once the header is known to be ours and complete."""
    header = data[: HEADER.itemsize].view(HEADER)[0]
    found = data[HEADER.itemsize : METADATA_START].view(FIELD)
    n, table_start = int(header["n"]), int(header["table"])
    if header["version"] == 0 or table_start == 0:
        raise InputError(f"{path} is unfinished: its header was never written; run pipeline.convert again")
    if header["version"] != VERSION:
        raise InputError(f"{path}: expected an FFCV file of version {VERSION}, got {header['version']}")
    if header["fields"] != 2 or found["type"].tolist() != [RGB_IMAGE, INT]:
        came = found["type"].tolist() if header["fields"] == 2 else f"{header['fields']} fields"
        raise InputError(f"{path}: expected the fields RGBImageField, IntField, got {came}; run pipeline.convert")
    if data.size != table_start + n * ALLOCATION.itemsize or table_start < METADATA_START + n * SAMPLE.itemsize:
        raise InputError(f"{path} is truncated or has bytes added ({data.size} bytes); run pipeline.convert again")
    return n, table_start


def _belongs(path: Path, data: np.ndarray, manifest: Manifest, n: int, table_start: int) -> None:
    if (manifest.n, manifest.bytes) != (n, data.size):
        came, expected = f"{n} samples in {data.size} bytes", f"{manifest.n} in {manifest.bytes}"
        raise InputError(f"{path} has {came}, its manifest was made for {expected}; run pipeline.convert again")
    index = index_sha256(data, n, table_start)
    if identity(index, manifest.classes, manifest.names_sha256, manifest.chunk_sha256) != manifest.digest:
        raise InputError(f"{path} is not the file that its manifest was made for; run pipeline.convert again")


def _chunks_hold(path: Path, data: np.ndarray, manifest: Manifest) -> None:
    pairs = zip(chunks_sha256(data), manifest.chunk_sha256, strict=True)
    wrong = [i for i, (came, expected) in enumerate(pairs) if came != expected]
    if wrong:
        raise InputError(f"{path}: bytes changed in chunk {wrong[0]} ({len(wrong)} in all); run pipeline.convert again")


def _sizes(path: Path, offsets: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Join the metadata's offsets with the allocation table's sizes: u64 [n], ALLOCATION [n] -> i64 [n]."""
    order = np.argsort(table["offset"], kind="stable")
    starts = table["offset"][order]
    place = np.minimum(np.searchsorted(starts, offsets), max(starts.size - 1, 0))
    if not np.array_equal(starts[place], offsets):
        raise InputError(f"{path}: samples without an entry in the allocation table; run pipeline.convert again")
    return table["size"][order][place].astype(np.int64)


def main() -> None:
    """Check every chunk of the files named on the command line."""
    if len(sys.argv) < 2:
        raise InputError("expected: python -m pipeline.beton FILE.beton ...")
    for name in sys.argv[1:]:
        beton = open_beton(name, verify=True)
        print(f"{name}: {beton.n} images, {beton.data.size / 1e6:.1f} MB, every chunk holds, digest {beton.digest}")


if __name__ == "__main__":
    command(main)
