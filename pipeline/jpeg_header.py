"""Whether a stored JPEG's header is whole, from its first few hundred bytes."""

import numpy as np
from numba import njit

_START, _FRAMES, _SCAN = 0xD8, (0xC0, 0xC1, 0xC2), 0xDA
_TABLES = (0xC4, 0xDB, 0xDD, 0xFE)  # Huffman, quantisation, restart interval, comment


def is_sound(jpeg: np.ndarray, height: int, width: int) -> bool:
    """Whether u8 [bytes] leads through known segments to a frame of this size, 8 bits, 1 or 3 colours, and a scan."""
    return bool(_is_sound(_readable(jpeg), 0, len(jpeg), height, width))


def plain_size(jpeg: np.ndarray) -> tuple[int, int] | None:
    """Height and width of u8 [bytes] if it is what the training decoder takes as it is: a sound header, 3 components
    that a JFIF header calls YCbCr, no EXIF (which may turn the image); None where someone else must look."""
    height, width = _plain_size(_readable(jpeg))
    return (height, width) if height and _is_sound(_readable(jpeg), 0, len(jpeg), height, width) else None


def check(first: int, last: int, data: np.ndarray, offsets, sizes, heights, widths, errors: np.ndarray) -> None:
    """Note in `errors` (i32 [N]) which of images first..last-1 of a file, data u8 [bytes], are not sound."""
    _check(first, last, _readable(data), offsets, sizes, heights, widths, errors)


def _readable(data: np.ndarray) -> np.ndarray:
    view = data.view()
    view.flags.writeable = False  # a writable array would be another type, and everything compiled twice
    return view


@njit(nogil=True, cache=True)
def _check(first, last, data, offsets, sizes, heights, widths, errors):
    for i in range(first, last):
        sound = _is_sound(data, offsets[i], offsets[i] + sizes[i], heights[i], widths[i])
        errors[i] = 0 if sound else 1


@njit(nogil=True, cache=True)
def _plain_size(data):
    at, jfif = 2, False
    while at + 10 <= data.size and data[at] == 0xFF:
        marker, length = data[at + 1], _word(data, at + 2)
        if marker in _FRAMES:
            three = data[at + 9] == 3
            return (_word(data, at + 5), _word(data, at + 7)) if jfif and three else (0, 0)
        if marker == 0xE0:
            jfif = True
        elif marker in (0xE1, 0xEE):  # EXIF; Adobe's, which may say that the components are RGB
            return 0, 0
        at += 2 + length
    return 0, 0


@njit(nogil=True, cache=True)
def _is_sound(data, at, end, height, width):
    if end - at < 4 or data[at] != 0xFF or data[at + 1] != _START:
        return False
    at += 2
    components = 0
    while at + 4 <= end:
        if data[at] != 0xFF:
            return False
        marker, segment = data[at + 1], at + 2
        if marker == 0xFF:  # any number of these may come before a marker
            at += 1
            continue
        length = _word(data, segment)
        if length < 2 or segment + length > end:
            return False
        if marker == _SCAN:
            scanned = data[segment + 2]
            return 1 <= scanned <= components and length == 6 + 2 * scanned
        if marker in _FRAMES:
            components = data[segment + 7] if length >= 11 else 0
            if components not in (1, 3) or length != 8 + 3 * components or data[segment + 2] != 8:
                return False
            if _word(data, segment + 3) != height or _word(data, segment + 5) != width:
                return False
            for i in range(components):
                sampling = data[segment + 9 + 3 * i]
                if not (1 <= sampling >> 4 <= 4 and 1 <= sampling & 15 <= 4):
                    return False
        elif marker not in _TABLES and not 0xE0 <= marker <= 0xEF:
            return False
        at = segment + length
    return False


@njit(nogil=True, cache=True, inline="always")
def _word(data, at):
    return np.int64(data[at]) * 256 + data[at + 1]
