"""Make the planes that a yuv420 store holds, from a JPEG without a loss, or from RGB.

planes_of_jpeg(jpeg, 375, 500)     # u8 bytes: Y, Cb, Cr; None unless the JPEG's own chroma is 4:2:0
planes_of_rgb(pixels)              # of u8 [H, W, 3]
"""

import ctypes
from functools import cache
from typing import Any

import llvmlite.binding
import numpy as np

from pipeline.backends import libffcv

HALVED, YCBCR, FAST_TRANSFORM = (
    2,
    1,
    2048,
)  # libturbojpeg's TJSAMP_420, TJCS_YCbCr and TJFLAG_FASTDCT, which libffcv sets


def planes_of_jpeg(jpeg: bytes, height: int, width: int) -> bytes | None:
    """Decode a JPEG of 4:2:0 up to its planes, from which libjpeg would go on to RGB: nothing is lost against that.

    None where its colours are others than YCbCr, its chroma is of another size, or libjpeg warns.
    """
    start, header, decompress, destroy = _functions()
    down, across = (height + 1) // 2, (width + 1) // 2
    luma = np.empty((2 * down, 2 * across), np.uint8)  # libturbojpeg pads to whole samples of chroma
    chroma = np.empty((2, down, across), np.uint8)
    found, handle = [ctypes.c_int() for _ in range(4)], start()
    try:
        if header(handle, jpeg, len(jpeg), *map(ctypes.byref, found)):
            return None
        if [each.value for each in found] != [width, height, HALVED, YCBCR]:
            return None
        planes = (ctypes.c_void_p * 3)(luma.ctypes.data, chroma[0].ctypes.data, chroma[1].ctypes.data)
        strides = (ctypes.c_int * 3)(2 * across, across, across)
        if decompress(handle, jpeg, len(jpeg), planes, width, strides, height, FAST_TRANSFORM):
            return None
    finally:
        destroy(handle)
    return luma[:height, :width].tobytes() + chroma.tobytes()


def planes_of_rgb(pixels: np.ndarray) -> bytes:
    """Turn u8 [H, W, 3] into Y at every pixel, and Cb and Cr of the mean colour of every 2 x 2 pixels.

    BT.601, full range, in libjpeg's constants of 16 fraction bits; each sample is rounded once, to the nearest. Where a
    side is odd the last pixels stand for those beyond them.
    """
    height, width, _ = pixels.shape
    rgb = pixels.astype(np.int64)
    luma = (rgb @ np.array([19595, 38470, 7471]) + (1 << 15)) >> 16
    even = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
    sums = even.reshape(-(-height // 2), 2, -(-width // 2), 2, 3).sum((1, 3))  # of four pixels: two bits more
    chroma = [(sums @ np.array(each) + (128 << 18) + (1 << 17)) >> 18 for each in (BLUE, RED)]
    return b"".join(np.clip(plane, 0, 255).astype(np.uint8).tobytes() for plane in (luma, *chroma))


BLUE, RED = (-11059, -21709, 32768), (32768, -27439, -5329)
"""Cb and Cr by R, G and B, times 2^16, as libjpeg's jccolor.c rounds them."""


@cache
def _functions() -> tuple[Any, Any, Any, Any]:
    libffcv.load()
    pointer, number, jpeg = ctypes.c_void_p, ctypes.c_int, (ctypes.c_char_p, ctypes.c_ulong)
    signatures = {
        "tjInitDecompress": (pointer,),
        "tjDecompressHeader3": (number, pointer, *jpeg, *[pointer] * 4),
        "tjDecompressToYUVPlanes": (number, pointer, *jpeg, pointer, number, pointer, number, number),
        "tjDestroy": (number, pointer),
    }
    start, header, decompress, end = (
        ctypes.CFUNCTYPE(*types)(llvmlite.binding.address_of_symbol(name)) for name, types in signatures.items()
    )
    return start, header, decompress, end
