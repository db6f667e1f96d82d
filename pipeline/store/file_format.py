"""Lay out a .beton file: FFCV's format, version 2, with the fields (RGB image, integer label).

layout = read_layout(Path("train.beton"))

header, field descriptors | one metadata row a sample | JPEG bytes | allocation table
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.errors import InputError

VERSION, RGB_IMAGE, INT = 2, 2, 1


def _record(fields: Any) -> np.dtype[np.void]:
    """The dtype of a record; numpy's stubs, given the list itself, say that of a float."""
    return cast("np.dtype[np.void]", np.dtype(fields))


HEADER = _record([("version", "<u2"), ("fields", "<u2"), ("page_bytes", "<u4"), ("n", "<u8"), ("table", "<u8")])
FIELD = _record([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
IMAGE = _record([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("offset", "<u8")])
SAMPLE = _record({"names": ["image", "label"], "formats": [IMAGE, "<i8"], "offsets": [0, 16], "itemsize": 24})
ALLOCATION = _record([("sample", "<u8"), ("offset", "<u8"), ("size", "<u8")])
METADATA_START = HEADER.itemsize + 2 * FIELD.itemsize


@dataclass(frozen=True)
class Layout:
    """Where the parts of a file of `n` samples and `bytes` bytes lie; everything but the JPEG bytes is its index."""

    path: Path
    n: int
    table_start: int
    bytes: int

    @property
    def metadata_end(self) -> int:
        """Where the JPEG bytes begin, or what is left of the rows that a conversion reserved."""
        return METADATA_START + self.n * SAMPLE.itemsize

    @property
    def index_bytes(self) -> int:
        """Header, field descriptors, metadata and allocation table."""
        return self.metadata_end + self.bytes - self.table_start


def read_layout(path: Path) -> Layout:
    """What a file's header says of it. Raises InputError if the file is missing, unfinished, truncated or of other
    fields."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; write it with pipeline.convert")
    with path.open("rb") as file:
        start = np.frombuffer(file.read(METADATA_START), np.uint8)
    if start.size < METADATA_START:
        raise InputError(f"{path} is unfinished or truncated (no complete header); run pipeline.convert again")
    header, found = start[: HEADER.itemsize].view(HEADER)[0], start[HEADER.itemsize :].view(FIELD)
    layout = Layout(path, int(header["n"]), int(header["table"]), path.stat().st_size)
    if header["version"] == 0 or layout.table_start == 0:
        raise InputError(f"{path} is unfinished: its header was never written; run pipeline.convert again")
    if header["version"] != VERSION:
        raise InputError(f"{path}: expected an FFCV file of version {VERSION}, got {header['version']}")
    if header["fields"] != 2 or found["type"].tolist() != [RGB_IMAGE, INT]:
        came = found["type"].tolist() if header["fields"] == 2 else f"{header['fields']} fields"
        raise InputError(f"{path}: expected the fields RGBImageField, IntField, got {came}; run pipeline.convert")
    if layout.bytes != layout.table_start + layout.n * ALLOCATION.itemsize or layout.table_start < layout.metadata_end:
        raise InputError(f"{path} is truncated or has bytes added ({layout.bytes} bytes); run pipeline.convert again")
    return layout


def metadata(data: np.ndarray, n: int) -> np.ndarray:
    """The metadata rows of a file: SAMPLE [n], a view of `data`. Holds the labels: see pipeline.labels.splits."""
    return data[METADATA_START : METADATA_START + n * SAMPLE.itemsize].view(SAMPLE)
