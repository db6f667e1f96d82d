"""Cut a JPEG file down to what decoding it needs; the compressed pixels are copied, not decoded.

stripped = strip(Path("photo.jpg").read_bytes())
stripped.data, stripped.height, stripped.width

Dropped are EXIF (with GPS and thumbnails), XMP, ICC profiles, comments, the segments of all other applications, bytes
between segments, and what follows the end marker, such as a motion photo's film. Decoders go by JFIF's and Adobe's
segments alone, and neither libjpeg nor DALI applies an ICC profile, so the decoded pixels stay the same to the bit.
"""

import re
from bisect import bisect_left
from typing import NamedTuple

import numpy as np

from pipeline.errors import InputError

SOI, EOI, SOS, APP0, APP14, COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE, 0xFE
ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SEQUENTIAL = {0xC0, 0xC1}
JFIF, JFIF_BYTES, MAJOR, THUMBNAIL = b"JFIF\0", 14, 5, 12
ADOBE, ADOBE_BYTES, TRANSFORM = b"Adobe", 12, 11
KNOWN_TRANSFORMS = {3: (0, 1), 4: (0, 2)}  # by components; libjpeg takes every other one for the last of these
MARKER = re.compile(rb"\xff[^\x00\xff]")  # between segments, where fill bytes may come before it


class Stripped(NamedTuple):
    """A JPEG without metadata, the size in pixels that its frame header says, and its number of components.

    repaired  a header value that libjpeg ignores with a warning was set to the one that it assumes: another major
              version of JFIF than 1, another range of coefficients than 0 to 63 in a sequential scan, or an unknown
              colour transform of Adobe
    """

    data: bytes
    height: int
    width: int
    components: int
    repaired: bool


class _Segment(NamedTuple):
    marker: int
    payload: bytearray
    pixels: bytes = b""
    """The compressed pixels that follow a scan header."""


def strip(jpeg: bytes) -> Stripped:
    """Drop from a JPEG file what decoding does not need.

    Raises InputError if it has no frame header, no end marker, or a segment that reaches beyond the file.
    """
    segments = _segments(jpeg)
    frame = next((each for each in segments if each.marker in FRAMES), None)
    if frame is None or len(frame.payload) < 6:
        raise InputError("corrupt JPEG: no frame header")
    repairs = [_repair(each, frame.marker, frame.payload[5]) for each in segments]
    height, width = int.from_bytes(frame.payload[1:3]), int.from_bytes(frame.payload[3:5])
    data = b"".join((bytes([0xFF, SOI]), *map(_joined, segments), bytes([0xFF, EOI])))
    return Stripped(data, height, width, frame.payload[5], any(repairs))


def _segments(jpeg: bytes) -> list[_Segment]:
    found, ends, at = [], _ends_of_scans(jpeg), 2
    while True:
        here = MARKER.search(jpeg, at)
        if here is None:
            raise InputError("truncated JPEG: no end marker")
        marker, at = jpeg[here.start() + 1], here.end()
        if marker == EOI:
            return found
        if marker in ALONE:
            continue
        length = int.from_bytes(jpeg[at : at + 2])
        if length < 2 or at + length > len(jpeg):
            raise InputError("corrupt or truncated JPEG: a segment reaches beyond the end of the file")
        payload, at = bytearray(jpeg[at + 2 : at + length]), at + length
        pixels = b""
        if marker == SOS:
            place = bisect_left(ends, at)
            if place == len(ends):
                raise InputError("truncated JPEG: no end marker")
            pixels, at = jpeg[at : ends[place]], ends[place]
        if _decides(marker, payload):
            found.append(_Segment(marker, payload, pixels))


def _ends_of_scans(jpeg: bytes) -> list[int]:
    """Where, in compressed pixels, a marker would end them: 255, then no stuffed 0, fill byte or restart marker."""
    values = np.frombuffer(jpeg, np.uint8)
    places = np.flatnonzero(values[:-1] == 0xFF)
    after = values[places + 1]
    return places[(after != 0) & (after != 0xFF) & (after & 0xF8 != 0xD0)].tolist()


def _decides(marker: int, payload: bytearray) -> bool:
    """Whether what a segment holds decides how pixels come out."""
    if marker == APP0:
        return len(payload) >= JFIF_BYTES and payload.startswith(JFIF)
    if marker == APP14:
        return len(payload) >= ADOBE_BYTES and payload.startswith(ADOBE)
    return not (APP0 <= marker <= APP14 + 1 or marker == COM)


def _repair(segment: _Segment, frame: int, components: int) -> bool:
    """Set what libjpeg warns of to what it assumes, and drop JFIF's thumbnail; whether a value was set."""
    payload = segment.payload
    before = bytes(payload)
    if segment.marker == APP0:
        payload[MAJOR] = 1
        before = before[:THUMBNAIL] + bytes(2)
        payload[THUMBNAIL:] = bytes(2)
    elif segment.marker == APP14:
        known = KNOWN_TRANSFORMS.get(components)
        if known and payload[TRANSFORM] not in known:
            payload[TRANSFORM] = known[-1]
    elif segment.marker == SOS and frame in SEQUENTIAL and len(payload) >= 3:
        payload[-3:] = 0, 63, 0
    return bytes(payload) != before


def _joined(segment: _Segment) -> bytes:
    length = (len(segment.payload) + 2).to_bytes(2)
    return bytes([0xFF, segment.marker]) + length + segment.payload + segment.pixels
