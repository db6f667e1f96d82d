"""Bind libffcv's JPEG decoder and area resize without importing ffcv, which takes seconds and imports its own loader.

numba kernels can call `imdecode` and `resize`. They are named external symbols, so that such kernels can be cached on
disk; a kernel with a ctypes pointer cannot.

    pixels = decode(beton.jpeg(7), 375, 500)     # u8 [375, 500, 3]
"""

import importlib.util
from functools import cache
from pathlib import Path

import llvmlite.binding
import numpy as np
from numba import njit, types

from pipeline.errors import InputError
from pipeline.store.image_size import MAX_SIDE, checked_size

_u64, _u32, _i64, _flag = types.uint64, types.uint32, types.int64, types.boolean

imdecode = types.ExternalFunction(
    "imdecode", types.int32(types.intp, _u64, _u32, _u32, types.intp, *[_u32] * 6, _flag, _flag)
)
resize = types.ExternalFunction("resize", types.void(*[_i64] * 11))


@cache
def load() -> None:
    """Make libffcv's symbols known to numba; to be called before the first kernel that uses them.

    Raises InputError if ffcv is not installed or its system library (libturbojpeg) is missing.
    """
    spec = importlib.util.find_spec("ffcv")
    places = spec.submodule_search_locations if spec else None
    found = sorted(Path(places[0]).glob("_libffcv*.so")) if places else []
    if not found:
        raise InputError("ffcv is not installed; run `make setup`")
    try:
        llvmlite.binding.load_library_permanently(str(found[0]))
    except RuntimeError as error:
        raise InputError(f"libffcv cannot be loaded ({error}); install libturbojpeg, then run `make setup`") from error


@njit(nogil=True, cache=True)
def _decode(jpeg, out):
    height, width = out.shape[0], out.shape[1]
    return imdecode(
        jpeg.ctypes.data, jpeg.size, height, width, out.ctypes.data, height, width, 0, 0, 1, 1, False, False
    )


def decode(jpeg: np.ndarray, height: int, width: int) -> np.ndarray | None:
    """Decode one JPEG: u8 [bytes] -> u8 [height, width, 3] RGB, or None where libffcv reports an error or warning.

    Raises InputError for a size that no image can have (pipeline.store.image_size).
    """
    checked_size(width, height, MAX_SIDE**2)
    load()
    out = np.empty((height, width, 3), np.uint8)
    return out if _decode(np.ascontiguousarray(jpeg), out) == 0 else None
