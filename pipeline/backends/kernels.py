"""Decode an image once and make every view of it, in one compiled call without the GIL.

What differs between the stores of a .beton is in here: how the bytes of an image become RGB (`decode_into`, and
`make_views`, which of planes turns no more into RGB than the views show).
"""

from typing import NamedTuple

import numpy as np
from numba import carray, njit, types

from pipeline.backends import jpeg_planes
from pipeline.backends.libffcv import imdecode, resize
from pipeline.executors.erase_numba import erase_fill, erase_noise
from pipeline.executors.rand_augment_numba import apply_ops
from pipeline.executors.resize_numba import resize as resize_by_filter
from pipeline.executors.yuv420_numba import pointer, to_rgb
from pipeline.spec import Size, both_sides
from pipeline.store.file_format import STORES
from pipeline.views.erase import CUTOUT_FILL

u64 = np.uint64
memcpy = types.ExternalFunction("memcpy", types.intp(types.intp, types.intp, types.uint64))
JPEG, RAW, YUV420 = map(STORES.index, ("jpeg", "raw", "yuv420"))


class Source(NamedTuple):
    """Where N images' bytes lie: offsets, sizes, heights, widths i64 [N]; and what they are, JPEG, RAW or YUV420.

    `address` is where offset 0 is in memory, and the caller keeps that memory. It is a number because a read-only array
    and a writable one are two types for numba, which would compile every kernel twice.
    """

    address: int
    offsets: np.ndarray
    sizes: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    store: int


class Scratch(NamedTuple):
    """Memory of one thread: pixels u8 [bytes of the largest image]; inner, spare u8 [H · W · 3] of the largest view."""

    pixels: np.ndarray
    inner: np.ndarray
    spare: np.ndarray


def scratch(largest: int, size: Size) -> Scratch:
    """Allocate scratch for images of up to `largest` pixels and views of up to `size`."""
    height, width = both_sides(size)
    pixels, inner, spare = (np.empty(n, np.uint8) for n in (3 * largest + 64, 3 * height * width, 3 * height * width))
    return Scratch(pixels[1:], inner, spare)  # an odd address: see decode_into


@njit(nogil=True, cache=True)
def decode_into(source, i, target):
    """Write image i as RGB to the address `target` and return libffcv's error code, 0 where it succeeds.

    An odd address is up to 13 % faster: libjpeg-turbo writes rows that begin at a multiple of 32 bytes past the cache.
    """
    stored, height, width = source.address + source.offsets[i], source.heights[i], source.widths[i]
    if source.store == JPEG:
        return imdecode(stored, source.sizes[i], height, width, target, height, width, 0, 0, 1, 1, False, False)
    if source.store == RAW:
        memcpy(target, stored, u64(3 * height * width))
    else:
        to_rgb(stored, height, width, 0, 0, height, width, target)
    return 0


@njit(nogil=True, cache=True)
def decode_packed(first, last, source, packed, places, errors):
    """Decode images first..last-1 into `packed` u8 [bytes], each at its pixel `places` (i64 [N]); errors i32 [N]."""
    for i in range(first, last):
        errors[i] = decode_into(source, i, packed.ctypes.data + 3 * places[i])


@njit(nogil=True, cache=True)
def find_planes(source, planes):
    """Say for each JPEG in `planes`, bool [N], whether it decodes to planes of YUV 4:2:0; reads the headers."""
    handle = jpeg_planes.start()
    for i in range(len(planes)):
        jpeg = source.address + source.offsets[i]
        planes[i] = jpeg_planes.halves_chroma(handle, jpeg, source.sizes[i], source.heights[i], source.widths[i])
    jpeg_planes.end(handle)


@njit(nogil=True, cache=True)
def decode_mixed(first, last, source, packed, places, planes, errors):
    """Decode images first..last-1 into `packed` u8 [bytes], each at its byte `places` (i64 [N]): to planes where
    `planes` (bool [N]) says so, else to RGB; errors i32 [N]."""
    handle = jpeg_planes.start()
    for i in range(first, last):
        target = packed.ctypes.data + places[i]
        if planes[i]:
            jpeg = source.address + source.offsets[i]
            errors[i] = jpeg_planes.decode(handle, jpeg, source.sizes[i], source.heights[i], source.widths[i], target)
        else:
            errors[i] = decode_into(source, i, target)
    jpeg_planes.end(handle)


@njit(nogil=True, cache=True)
def copy_packed(first, last, source, packed, places):
    """Copy images first..last-1 as they are stored into `packed` u8 [bytes], each at its byte `places` (i64 [N])."""
    for i in range(first, last):
        memcpy(packed.ctypes.data + places[i], source.address + source.offsets[i], u64(source.sizes[i]))


@njit(nogil=True, cache=True)
def make_views(first, last, source, params, out, errors, scratch):
    """Make the views of images first..last-1 from a plan's ViewParams: out u8 [V, N, H, W, 3], errors i32 [N]."""
    down, across = out.shape[2], out.shape[3]
    spare = scratch.spare[: 3 * down * across].reshape(down, across, 3)  # raises where the scratch is for smaller views
    for i in range(first, last):
        pixels = np.int64(scratch.pixels.ctypes.data)  # of one type: numba would join u64 and i64 in a float
        if source.store == RAW:
            pixels = np.int64(source.address + source.offsets[i])
        elif source.store == YUV420:
            _convert_shown(source, params.boxes, i, pixels)
        else:
            errors[i] = decode_into(source, i, pixels)
        for v in range(out.shape[0]):
            view = out[v, i]
            height, width, box = source.heights[i], source.widths[i], params.boxes[v, i]
            if params.filters[v]:
                image = carray(pointer(pixels), (height, width, 3))  # ty: ignore[missing-argument]
                frame = params.frames[v, i]
                resize_by_filter(params.filters[v], image, box[0], box[1], box[2], box[3], frame, view)
            else:
                _cut(pixels, height, width, box, params.insets[v, i], view, scratch)
            if params.flips[v, i]:
                _flip(view, spare)
            apply_ops(view, params.ops[v, i], params.args[v, i], params.nearest[v], params.fill[v], spare)
            if params.noisy[v]:
                erase_noise(view, params.erased[v, i], params.noise[v, i])
            else:
                erase_fill(view, params.erased[v, i], CUTOUT_FILL)


@njit(nogil=True, cache=True)
def _convert_shown(source, boxes, i, pixels):
    """Turn of image i, whose planes are stored, the smallest part into RGB that holds the boxes of all views."""
    top, left, bottom, right = source.heights[i], source.widths[i], np.int64(0), np.int64(0)
    for v in range(boxes.shape[0]):
        box = boxes[v, i]
        top, left = min(top, box[0]), min(left, box[1])
        bottom, right = max(bottom, box[0] + box[2]), max(right, box[1] + box[3])
    stored = np.int64(source.address + source.offsets[i])
    to_rgb(stored, source.heights[i], source.widths[i], top, left, bottom - top, right - left, pixels)


@njit(nogil=True, cache=True)
def _cut(pixels, height, width, box, insets, out, scratch):
    down, across = out.shape[0], out.shape[1]
    top, left = box[0], box[1]
    before_y, before_x, after_y, after_x = insets[0], insets[1], insets[2], insets[3]
    if before_y + before_x + after_y + after_x == 0:
        resize(0, pixels, height, width, top, top + box[2], left, left + box[3], out.ctypes.data, down, across)
        return
    inner_y, inner_x = down - before_y - after_y, across - before_x - after_x
    inner = scratch.inner
    resize(0, pixels, height, width, top, top + box[2], left, left + box[3], inner.ctypes.data, inner_y, inner_x)
    for y in range(down):
        row = _reflect(y - before_y, inner_y) * inner_x
        for x in range(across):
            at = 3 * (row + _reflect(x - before_x, inner_x))
            for c in range(3):
                out[y, x, c] = inner[at + c]


@njit(nogil=True, cache=True, inline="always")
def _reflect(at, n):
    at = abs(at)
    return (n - 1) - abs((n - 1) - at)


@njit(nogil=True, cache=True)
def _flip(view, spare):
    """Mirror u8 [H, W, 3] in place: each row is written mirrored to `spare` and copied back, with unsigned indices,
    which takes a third of the time of swapping."""
    across, line = view.shape[1], spare.reshape(spare.size)
    last = u64(3 * (across - 1))
    for y in range(view.shape[0]):
        row = view[y].reshape(3 * across)
        for x in range(across):
            here = u64(x) * u64(3)
            there = last - here
            line[here], line[here + u64(1)], line[here + u64(2)] = row[there], row[there + u64(1)], row[there + u64(2)]
        for x in range(3 * across):
            row[x] = line[x]
