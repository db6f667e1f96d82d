"""Ask libjpeg what it objects to in a JPEG that libffcv does not decode without a warning.

complaint(jpeg, 480, 640, 3)     # "Corrupt JPEG data: premature end of data segment"

libffcv gives a number only. The library behind it, libturbojpeg, keeps the text of the first error or warning.
"""

import ctypes
import re
from functools import cache
from typing import Any

import llvmlite.binding
import numpy as np

from pipeline.backends import libffcv

RGB, CMYK = (0, 3), (11, 4)  # libturbojpeg's number of a pixel format, and bytes a pixel
LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")


def complaint(jpeg: bytes, height: int, width: int, components: int) -> str | None:
    """Decode a JPEG and give libjpeg's first error or warning, in its own words, or None if there is none."""
    start, decompress, message, destroy = _functions()
    form, channels = CMYK if components == 4 else RGB
    pixels, handle = np.empty((height, width, channels), np.uint8), start()
    try:
        failed = decompress(handle, jpeg, len(jpeg), pixels.ctypes.data, width, 0, height, form, 0)
        return message(handle).decode(errors="replace") if failed else None
    finally:
        destroy(handle)


def only_padding(jpeg: bytes, complained: str) -> bool:
    """Whether all that libjpeg objects to is one byte, repeated between the last pixel and the end marker.

    Other left-over bytes are what most flipped bits of compressed pixels end in, so they count as damage.
    """
    found = LEFT_OVER.fullmatch(complained)
    return found is not None and len(set(jpeg[-2 - int(found[1]) : -2])) == 1


@cache
def _functions() -> tuple[Any, Any, Any, Any]:
    libffcv.load()
    pointer, number = ctypes.c_void_p, ctypes.c_int
    signatures = {
        "tjInitDecompress": (pointer,),
        "tjDecompress2": (number, pointer, ctypes.c_char_p, ctypes.c_ulong, pointer, *[number] * 5),
        "tjGetErrorStr2": (ctypes.c_char_p, pointer),
        "tjDestroy": (number, pointer),
    }
    start, decode, error, end = (
        ctypes.CFUNCTYPE(*types)(llvmlite.binding.address_of_symbol(name)) for name, types in signatures.items()
    )
    return start, decode, error, end
