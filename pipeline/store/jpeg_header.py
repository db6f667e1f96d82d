"""Whether a JPEG's header is whole, and whether its image stands upright, from its first few hundred bytes."""

import numpy as np
from numba import njit

from pipeline.store.image_size import possible

_START, _FRAMES, _SCAN = 0xD8, (0xC0, 0xC1, 0xC2), 0xDA
_TABLES = (0xC4, 0xDB, 0xDD, 0xFE)  # Huffman, quantisation, restart interval, comment
_APP1, _ORIENTATION, _SHORT, _UPRIGHT, _LAST = 0xE1, 0x0112, 3, 1, 8
_APP0, _APP14, _SEQUENTIAL = 0xE0, 0xEE, (0xC0, 0xC1)
_JFIF, _ADOBE = np.frombuffer(b"JFIF\0", np.uint8), np.frombuffer(b"Adobe", np.uint8)
_EXIF = np.frombuffer(b"Exif\0\0", np.uint8)
_XMP_ORIENTATION = np.frombuffer(b"tiff:Orientation", np.uint8)
_NONE, _SILENT, _UNUSUAL = -1, 0, -2  # no EXIF; EXIF that does not say; EXIF of a form that somebody else must read


def is_sound(jpeg: np.ndarray, height: int, width: int) -> bool:
    """Whether u8 [bytes] leads through known segments to a frame of this size, 8 bits, 1 or 3 colours, and a scan.

    Values that libjpeg warns of are not sound: a major version of JFIF other than 1, a colour transform of Adobe that
    is unknown, and a sequential scan of other coefficients than 0 to 63.
    """
    return bool(_is_sound(_readable(jpeg), 0, len(jpeg), height, width))


def plain_size(jpeg: np.ndarray) -> tuple[int, int] | None:
    """Height and width of u8 [bytes] if it is what the training decoder takes as it is: a sound header, 1 or 3
    components, and nothing that may turn the image; None where someone else must look.

    Which colours the components are, JFIF's and Adobe's markers say, and libjpeg goes by them as it does in Pillow.
    """
    height, width = _plain_size(_readable(jpeg))
    sound = possible(width, height) and _is_sound(_readable(jpeg), 0, len(jpeg), height, width)
    return (height, width) if sound else None


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
    at, height, width, said, in_xmp = 2, 0, 0, _NONE, False
    while at + 4 <= data.size and data[at] == 0xFF:
        marker, segment = data[at + 1], at + 2
        if marker == 0xFF:  # any number of these may come before a marker
            at += 1
            continue
        end = segment + _word(data, segment)
        if marker == _SCAN or end > data.size:
            break
        if marker in _FRAMES and end >= segment + 7:
            height, width = _word(data, segment + 3), _word(data, segment + 5)
        elif marker == _APP1 and _at(data, segment + 2, end, _EXIF):
            said = _orientation(data, segment + 8, end) if said == _NONE else _UNUSUAL  # in several parts
        elif marker == _APP1:
            in_xmp = in_xmp or _holds(data, segment + 2, end, _XMP_ORIENTATION)
        at = max(end, at + 2)
    # Pillow looks into XMP where EXIF is silent, and takes what is not 1 to 8 for upright
    upright = said == _UPRIGHT or said > _LAST or (said in (_NONE, _SILENT) and not in_xmp)
    return (height, width) if upright else (0, 0)


@njit(nogil=True, cache=True)
def _orientation(data, at, end):
    """The orientation in EXIF's first directory, a TIFF header and what follows in data[at:end]."""
    if end - at < 8:
        return _UNUSUAL
    large_first = data[at] == 0x4D  # "MM", or "II"
    if data[at] != data[at + 1] or data[at] not in (0x4D, 0x49) or _number(data, at + 2, 2, large_first) != 42:
        return _UNUSUAL
    first = at + _number(data, at + 4, 4, large_first)
    if first + 2 > end:
        return _UNUSUAL
    entries, found = _number(data, first, 2, large_first), _SILENT
    if first + 2 + 12 * entries > end:
        return _UNUSUAL
    for i in range(entries):
        entry = first + 2 + 12 * i
        if _number(data, entry, 2, large_first) != _ORIENTATION:
            continue
        one_short = _number(data, entry + 2, 2, large_first) == _SHORT and _number(data, entry + 4, 4, large_first) == 1
        if found != _SILENT or not one_short:
            return _UNUSUAL
        found = _number(data, entry + 8, 2, large_first)
    return found


@njit(nogil=True, cache=True, inline="always")
def _number(data, at, size, large_first):
    value = np.int64(0)
    for i in range(size):
        value = value * 256 + data[at + i if large_first else at + size - 1 - i]
    return value


@njit(nogil=True, cache=True)
def _holds(data, at, end, word):
    found = False
    for first in range(at, end - word.size + 1):
        found = found or (data[first] == word[0] and _at(data, first, end, word))
    return found


@njit(nogil=True, cache=True)
def _at(data, at, end, word):
    if end - at < word.size:
        return False
    same = True
    for i in range(word.size):
        same = same and data[at + i] == word[i]
    return same


@njit(nogil=True, cache=True)
def _is_sound(data, at, end, height, width):
    if end - at < 4 or data[at] != 0xFF or data[at + 1] != _START:
        return False
    at += 2
    components, sequential, jfif, transform = 0, False, False, 0
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
            scanned, last = data[segment + 2], segment + length
            if not 1 <= scanned <= components or length != 6 + 2 * scanned:
                return False
            if components == 3 and not jfif and transform > 1:
                return False
            return not sequential or (data[last - 3] == 0 and data[last - 2] == 63 and data[last - 1] == 0)
        if marker in _FRAMES:
            components, sequential = data[segment + 7] if length >= 11 else 0, marker in _SEQUENTIAL
            if components not in (1, 3) or length != 8 + 3 * components or data[segment + 2] != 8:
                return False
            if _word(data, segment + 3) != height or _word(data, segment + 5) != width:
                return False
            for i in range(components):
                sampling = data[segment + 9 + 3 * i]
                if not (1 <= sampling >> 4 <= 4 and 1 <= sampling & 15 <= 4):
                    return False
        elif marker == _APP0 and length >= 16 and _at(data, segment + 2, segment + length, _JFIF):
            jfif = True
            if data[segment + 7] != 1:
                return False
        elif marker == _APP14 and length >= 14 and _at(data, segment + 2, segment + length, _ADOBE):
            transform = data[segment + 13]
        elif marker not in _TABLES and not 0xE0 <= marker <= 0xEF:
            return False
        at = segment + length
    return False


@njit(nogil=True, cache=True, inline="always")
def _word(data, at):
    return np.int64(data[at]) * 256 + data[at + 1]
