"""Decode a JPEG up to its planes of YUV 4:2:0, in compiled code: enlarging its chroma and turning it into RGB is left.

libturbojpeg does it, which libffcv brings along. The planes are those of pipeline.store.file_format, and what
pipeline.executors makes of them is the JPEG's own RGB, to the bit. A handle is a thread's own.

    handle = start()
    if halves_chroma(handle, address, size, 375, 500):
        error = decode(handle, address, size, 375, 500, target)
    end(handle)
"""

import numpy as np
from numba import njit, types

_address, _size, _number = types.intp, types.uint64, types.int32
start = types.ExternalFunction("tjInitDecompress", _address())
end = types.ExternalFunction("tjDestroy", _number(_address))
_header = types.ExternalFunction("tjDecompressHeader3", _number(_address, _address, _size, *[_address] * 4))
_decompress = types.ExternalFunction(
    "tjDecompressToYUVPlanes", _number(_address, _address, _size, _address, _number, _address, _number, _number)
)
_move = types.ExternalFunction("memmove", _address(_address, _address, _size))
HALVED, YCBCR, FAST_TRANSFORM = 2, 1, 2048
"""libturbojpeg's TJSAMP_420, TJCS_YCbCr and TJFLAG_FASTDCT, which libffcv sets, too."""


@njit(nogil=True, cache=True)
def halves_chroma(handle, jpeg, size, height, width):
    """Whether a JPEG of `size` bytes at the address `jpeg` is YCbCr of 4:2:0 and of these sides; reads its header."""
    found = np.zeros(4, np.int32)
    first = found.ctypes.data
    if _header(handle, jpeg, np.uint64(size), first, first + 4, first + 8, first + 12) != 0:
        return False
    return found[0] == width and found[1] == height and found[2] == HALVED and found[3] == YCBCR


def room(height, width):
    """The bytes that `decode` writes to, of one image or of arrays: planes padded to whole samples of chroma."""
    return 6 * ((height + 1) // 2) * ((width + 1) // 2)


@njit(nogil=True, cache=True)
def decode(handle, jpeg, size, height, width, target):
    """Write the planes to the address `target`, of which `room` bytes are used; -> 0, or not where an error or a
    warning occurs, or the JPEG is none of which `halves_chroma` holds."""
    if not halves_chroma(handle, jpeg, size, height, width):  # its planes would be larger than the room
        return 1
    down, across = (height + 1) // 2, (width + 1) // 2
    luma, chroma = 4 * down * across, down * across
    planes = np.array([target, target + luma, target + luma + chroma], np.intp)
    strides = np.array([2 * across, across, across], np.int32)
    error = _decompress(
        handle, jpeg, np.uint64(size), planes.ctypes.data, np.int32(width), strides.ctypes.data, np.int32(height),
        np.int32(FAST_TRANSFORM),
    )  # fmt: skip
    if width % 2:
        for y in range(1, height):
            _move(target + y * width, target + y * 2 * across, np.uint64(width))
    if luma != height * width:
        _move(target + height * width, target + luma, np.uint64(2 * chroma))
    return error
