"""Lay out a .beton file: FFCV's format, version 2, with the fields (RGB image, integer label).

layout = read_layout(Path("train.beton"))
layout.store                                 # "jpeg"

header, field descriptors | one metadata row a sample | the samples' bytes | allocation table

A file holds its images in one of three stores:

jpeg     JPEG, 8 bits, upright, of 1 or 3 components. FFCV's mode 0.
raw      RGB, u8 [H, W, 3]. FFCV's mode 1, which stock FFCV reads.
yuv420   Planes as a 4:2:0 JPEG has them: Y u8 [H, W], then Cb and Cr u8 [ceil(H / 2), ceil(W / 2)], BT.601 in the full
         range of 0 to 255, each chroma sample in the middle of its four pixels. FFCV knows no such image, and reads
         every mode but 0 as RGB; so the field is of the type that FFCV leaves to others, which its reader refuses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from pipeline.errors import InputError

VERSION, RGB_IMAGE, INT, CUSTOM = 2, 2, 1, 255
Store = Literal["jpeg", "raw", "yuv420"]
STORES: tuple[Store, ...] = get_args(Store)
"""Stores by their modes in a file."""


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
    """Where the parts of a file of `n` samples and `bytes` bytes lie, and what its samples are; everything but the
    samples' bytes is its index."""

    path: Path
    n: int
    table_start: int
    bytes: int
    store: Store

    @property
    def metadata_end(self) -> int:
        """Where the samples' bytes begin, or what is left of the rows that a conversion reserved."""
        return METADATA_START + self.n * SAMPLE.itemsize

    @property
    def index_bytes(self) -> int:
        """Header, field descriptors, metadata and allocation table."""
        return self.metadata_end + self.bytes - self.table_start


def stored_bytes(store: Store, heights: Any, widths: Any) -> Any:
    """Compute the bytes of images of heights x widths pixels (ints, or i64 [N]) in a store of pixels; None for JPEG,
    whose bytes its pixels decide."""
    if store == "jpeg":
        return None
    if store == "raw":
        return 3 * heights * widths
    return heights * widths + 2 * ((heights + 1) // 2) * ((widths + 1) // 2)


def described(store: Store) -> np.ndarray:
    """The field descriptors of a file: FIELD [2]."""
    fields = np.zeros(2, FIELD)
    fields["type"], fields["name"] = (CUSTOM if store == "yuv420" else RGB_IMAGE, INT), (b"image", b"label")
    if store == "yuv420":
        fields["arguments"][0] = store.encode()
    return fields


def read_layout(path: Path) -> Layout:
    """What a file's header says of it. Raises InputError if the file is missing, unfinished, truncated or of other
    fields."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; write it with pipeline.convert")
    with path.open("rb") as file:
        start, row = np.frombuffer(file.read(METADATA_START), np.uint8), file.read(SAMPLE.itemsize)
    if start.size < METADATA_START:
        raise InputError(f"{path} is unfinished or truncated (no complete header); run pipeline.convert again")
    header, found = start[: HEADER.itemsize].view(HEADER)[0], start[HEADER.itemsize :].view(FIELD)
    store = _store(found, row)
    layout = Layout(path, int(header["n"]), int(header["table"]), path.stat().st_size, store or "jpeg")
    if header["version"] == 0 or layout.table_start == 0:
        raise InputError(f"{path} is unfinished: its header was never written; run pipeline.convert again")
    if header["version"] != VERSION:
        raise InputError(f"{path}: expected an FFCV file of version {VERSION}, got {header['version']}")
    if header["fields"] != 2 or store is None:
        came = found["type"].tolist() if header["fields"] == 2 else f"{header['fields']} fields"
        raise InputError(f"{path}: expected the fields RGBImageField, IntField, got {came}; run pipeline.convert")
    if layout.bytes != layout.table_start + layout.n * ALLOCATION.itemsize or layout.table_start < layout.metadata_end:
        raise InputError(f"{path} is truncated or has bytes added ({layout.bytes} bytes); run pipeline.convert again")
    return layout


def _store(fields: np.ndarray, row: bytes) -> Store | None:
    """The store of a file with these descriptors, FIELD [2], and this row of its first sample; None if there is none.
    Whether the other rows are of the same mode is for who reads them to see."""
    if fields["type"].tolist() == [RGB_IMAGE, INT]:
        return "raw" if row[:1] == bytes([STORES.index("raw")]) else "jpeg"
    return "yuv420" if fields.tobytes() == described("yuv420").tobytes() else None


def metadata(data: np.ndarray, n: int) -> np.ndarray:
    """The metadata rows of a file: SAMPLE [n], a view of `data`. Holds the labels: see pipeline.labels.splits."""
    return data[METADATA_START : METADATA_START + n * SAMPLE.itemsize].view(SAMPLE)
