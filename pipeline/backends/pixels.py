"""Read one image of a .beton as pixels, whatever its store: for pictures and measurements, not for training.

pixels = read_pixels(beton, 7)     # u8 [375, 500, 3]
"""

import numpy as np

from pipeline.backends import kernels, libffcv
from pipeline.store.beton import Beton
from pipeline.store.file_format import STORES, Store, stored_bytes
from pipeline.store.image_size import MAX_SIDE, checked_size


def read_pixels(beton: Beton, i: int) -> np.ndarray | None:
    """Read image i as u8 [H, W, 3] RGB, as training sees it; None where it no longer decodes."""
    (offset,), (size,), (height,), (width,) = (each.tolist() for each in beton.where(np.array([i])))
    return to_pixels(beton.data[offset : offset + size], height, width, beton.store)


def to_pixels(stored: np.ndarray, height: int, width: int, store: Store) -> np.ndarray | None:
    """Turn one image's stored bytes, u8 [n], into u8 [height, width, 3] RGB; None where they are not such an image."""
    checked_size(width, height, MAX_SIDE**2)
    libffcv.load()
    expected = stored_bytes(store, height, width)
    if expected is not None and len(stored) != expected:
        return None
    stored, out = np.ascontiguousarray(stored), np.empty((height, width, 3), np.uint8)
    where = (np.array([value], np.int64) for value in (0, len(stored), height, width))
    source, errors = kernels.Source(stored.ctypes.data, *where, STORES.index(store)), np.zeros(1, np.int32)
    kernels.decode_packed(0, 1, source, out.reshape(-1), np.zeros(1, np.int64), errors)
    return None if errors[0] else out
