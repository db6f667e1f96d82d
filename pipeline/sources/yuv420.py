"""Make the planes that a yuv420 store holds, from a JPEG without a loss, or from RGB.

planes_of_jpeg(jpeg, 375, 500)     # u8 bytes: Y, Cb, Cr; None unless the JPEG's own chroma is 4:2:0
planes_of_rgb(pixels)              # of u8 [H, W, 3]
"""

import numpy as np
from numba import njit

from pipeline.backends import jpeg_planes, libffcv


def planes_of_jpeg(jpeg: bytes, height: int, width: int) -> bytes | None:
    """Decode a JPEG of 4:2:0 up to its planes, from which libjpeg would go on to RGB: nothing is lost against that.

    None where its colours are others than YCbCr, its chroma is of another size, or libjpeg warns.
    """
    libffcv.load()
    held, out = np.frombuffer(jpeg, np.uint8), np.empty(jpeg_planes.room(height, width), np.uint8)
    if _decode(held.ctypes.data, held.size, height, width, out.ctypes.data) != 0:
        return None
    return out[: height * width + 2 * ((height + 1) // 2) * ((width + 1) // 2)].tobytes()


@njit(nogil=True, cache=True)
def _decode(jpeg, size, height, width, target):
    handle = jpeg_planes.start()
    error = jpeg_planes.decode(handle, jpeg, size, height, width, target)
    jpeg_planes.end(handle)
    return error


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
