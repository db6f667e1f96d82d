"""Turn a part of an image from the planes of a 4:2:0 JPEG into RGB on a CPU, to the bit as libjpeg-turbo does.

    to_rgb(planes, 375, 500, 7, 11, 300, 200, target)     # two addresses; rows 7 to 306, columns 11 to 210

The planes are those of pipeline.store.file_format. Chroma is enlarged by libjpeg's "fancy" triangle filter: the nearest
sample counts 9/16, its neighbours across and down 3/16 each, the one between these 1/16, rounded up and down in turns.
In images of at most 4 columns every sample is repeated instead. Then BT.601, with constants of 16 fraction bits.
"""

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

i32, u64 = np.int32, np.uint64
RED_CR, GREEN_CB, GREEN_CR, BLUE_CB, HALF = 91881, 22554, 46802, 116130, 1 << 15
"""1.402, 0.34414, 0.71414, 1.772 and 0.5 times 2^16, as libjpeg's jdcolor.c rounds them."""
REPEATED = 2  # columns of chroma, up to which libjpeg repeats samples


@intrinsic
def pointer(typing, address):
    """The memory at an address, for carray."""

    def build(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(address), build


@njit(nogil=True, cache=True)
def to_rgb(planes, height, width, top, left, rows, columns, target):
    """Write a part of an image as RGB to where it lies in u8 [height, width, 3] at the address `target`."""
    down, across = (height + 1) // 2, (width + 1) // 2
    luma = carray(pointer(planes), (height, width))  # ty: ignore[missing-argument]
    blue = carray(pointer(planes + height * width), (down, across))  # ty: ignore[missing-argument]
    red = carray(pointer(planes + height * width + down * across), (down, across))  # ty: ignore[missing-argument]
    out = carray(pointer(target), (height, 3 * width))  # ty: ignore[missing-argument]
    first, last = left // 2, (left + columns - 1) // 2  # columns of chroma
    sums, pairs = np.empty(last - first + 3, np.uint16), np.empty((2, last - first + 1), np.uint16)
    wide, channels = pairs.view(np.uint8), np.empty((3, columns), np.uint8)
    part = slice(left - 2 * first, left - 2 * first + columns)
    for y in range(top, top + rows):
        near = y // 2
        far = min(max(near + (1 if y % 2 else -1), 0), down - 1)
        if across <= REPEATED:
            _repeat(blue[near], first, wide[0])
            _repeat(red[near], first, wide[1])
        else:
            _enlarge(blue[near], blue[far], first, last, sums, pairs[0])
            _enlarge(red[near], red[far], first, last, sums, pairs[1])
        shown, cb, cr = luma[y, left : left + columns], wide[0, part], wide[1, part]
        _add_one(shown, cr, RED_CR, channels[0])
        _add_green(shown, cb, cr, channels[1])
        _add_one(shown, cb, BLUE_CB, channels[2])
        _interleave(channels[0], channels[1], channels[2], out[y, 3 * left : 3 * (left + columns)])


@njit(nogil=True, cache=True)
def _repeat(samples, first, wide):
    for x in range(wide.size):
        wide[x] = samples[first + x // 2]


@njit(nogil=True, cache=True)
def _enlarge(near, far, first, last, sums, pairs):
    """Enlarge columns first..last of a row of chroma, with the row on the other side: two u8 in each of u16 [n]."""
    n = last - first + 1
    before, after = max(first - 1, 0), min(last + 1, near.size - 1)
    sums[0], sums[n + 1] = 3 * near[before] + far[before], 3 * near[after] + far[after]
    _add_rows(near[first : last + 1], far[first : last + 1], sums[1:])
    for x in range(n):  # a pair is one number, as LLVM does not vectorise a step of two
        i = u64(x)
        here = 3 * i32(sums[i + u64(1)])
        left = ((here + i32(sums[i]) + 8) & 0xFFFF) >> 4
        right = ((here + i32(sums[i + u64(2)]) + 7) & 0xFFFF) >> 4
        pairs[i] = left | (right << 8)


@njit(nogil=True, cache=True)
def _add_rows(near, far, sums):
    for x in range(near.size):
        i = u64(x)
        sums[i] = 3 * near[i] + far[i]


# A loop for each channel: of more arrays LLVM does not prove that they are apart, and does not vectorise.


@njit(nogil=True, cache=True)
def _add_one(luma, chroma, factor, out):
    for x in range(luma.size):
        i = u64(x)
        change = i32(i32(factor * (i32(chroma[i]) - i32(128)) + HALF) >> i32(16))
        out[i] = min(max(i32(luma[i]) + change, i32(0)), i32(255))


@njit(nogil=True, cache=True)
def _add_green(luma, blue, red, out):
    for x in range(luma.size):
        i = u64(x)
        cb, cr = i32(blue[i]) - i32(128), i32(red[i]) - i32(128)
        change = i32(i32(HALF - GREEN_CB * cb - GREEN_CR * cr) >> i32(16))
        out[i] = min(max(i32(luma[i]) + change, i32(0)), i32(255))


@njit(nogil=True, cache=True)
def _interleave(red, green, blue, out):
    for x in range(red.size):
        i = u64(x)
        at = u64(3) * i
        out[at], out[at + u64(1)], out[at + u64(2)] = red[i], green[i], blue[i]
