"""numba kernel of the affine operations, in 16.16 fixed point like Pillow's nearest-neighbour transform.

Bilinear keeps 11 bits of each fraction; both executors use the same integers, so they agree bit by bit.
"""

import numpy as np
from numba import njit

from pipeline.views.rand_augment_tables import ONE

BITS = 11  # of a bilinear weight: 8 + 2 · 11 fits in an i32
HALF = ONE // 2
u64 = np.uint64
i32 = np.int32


@njit(nogil=True, cache=True)
def warp(source, out, size, a, b, c, d, e, f, nearest, fill):
    """out(x, y) = source(a·x + b·y + c, d·x + e·y + f) in 16.16, or fill outside it; both u8 [S · S · 3]."""
    limit = size << 16
    for y in range(size):
        row = out[y * size * 3 : (y + 1) * size * 3]
        sx, sy = b * y + c, e * y + f
        start, stop = _inside(sx, a, 0, size, limit)
        start, stop = _inside(sy, d, start, stop, limit)
        _fill(row, 0, start, fill)
        _fill(row, stop, size, fill)
        if start == stop:
            continue
        if d == 0 and a == ONE:
            if nearest:
                first = (sy >> 16) * size + (sx >> 16)
                here, there = row[start * 3 : stop * 3], source[(first + start) * 3 :]
                for i in range((stop - start) * 3):
                    here[i] = there[i]
            else:
                _shifted_row(source, row, size, sx - HALF, sy - HALF, start, stop)
        elif nearest:
            _nearest_row(source, row, size, sx, a, sy, d, start, stop)
        else:
            _bilinear_row(source, row, size, sx - HALF, a, sy - HALF, d, start, stop)


@njit(nogil=True, cache=True)
def _inside(first, step, start, stop, limit):
    """The part of start..stop where first + step · x is in 0..limit; an interval, as the coordinate is monotone."""
    while start < stop and not 0 <= first + step * start < limit:
        start += 1
    while start < stop and not 0 <= first + step * (stop - 1) < limit:
        stop -= 1
    return start, stop


@njit(nogil=True, cache=True)
def _fill(row, start, stop, fill):
    red, green, blue = fill[0], fill[1], fill[2]
    for x in range(start, stop):
        i = u64(x) * u64(3)
        row[i], row[i + u64(1)], row[i + u64(2)] = red, green, blue


@njit(nogil=True, cache=True)
def _nearest_row(source, row, size, sx, a, sy, d, start, stop):
    for x in range(start, stop):
        u, v = (a * x + sx) >> 16, (d * x + sy) >> 16
        i, j = u64(x) * u64(3), u64((v * size + u) * 3)
        row[i], row[i + u64(1)], row[i + u64(2)] = source[j], source[j + u64(1)], source[j + u64(2)]


@njit(nogil=True, cache=True)
def _weights(u, v):
    """Weights i32 of the four pixels around (u, v), left before right, upper before lower: 2^(2 · BITS) in all."""
    across, down = i32((u & 0xFFFF) >> (16 - BITS)), i32((v & 0xFFFF) >> (16 - BITS))
    both = i32(across * down)
    right, lower = i32(i32(across << BITS) - both), i32(i32(down << BITS) - both)
    return i32((1 << 2 * BITS) - right - lower - both), right, lower, both


@njit(nogil=True, cache=True)
def _between(p, q, r, s, weights):
    """The weighted mean of four levels, truncated. Without the wraps numba widens to 64 bits: half the lanes."""
    upper = i32(i32(i32(p) * weights[0]) + i32(i32(q) * weights[1]))
    lower = i32(i32(i32(r) * weights[2]) + i32(i32(s) * weights[3]))
    return np.uint8(i32(upper + lower) >> i32(2 * BITS))


@njit(nogil=True, cache=True)
def _bilinear_row(source, row, size, sx, a, sy, d, start, stop):
    last = size - 1
    for x in range(start, stop):
        u, v = a * x + sx, d * x + sy
        weights = _weights(u, v)
        left, right = max(u >> 16, 0), min((u >> 16) + 1, last)
        upper, lower = max(v >> 16, 0) * size, min((v >> 16) + 1, last) * size
        p, q, r, s = (
            u64((upper + left) * 3),
            u64((upper + right) * 3),
            u64((lower + left) * 3),
            u64((lower + right) * 3),
        )
        i = u64(x) * u64(3)
        for k in (u64(0), u64(1), u64(2)):
            row[i + k] = _between(source[p + k], source[q + k], source[r + k], source[s + k], weights)


@njit(nogil=True, cache=True)
def _shifted_row(source, row, size, sx, sy, start, stop):
    """A row that moves sideways as a whole (shear_x, translate_*): the same weights everywhere, contiguous reads."""
    shift = sx >> 16
    first, beyond = max(start, -shift), min(stop, size - 1 - shift)  # where neither tap is clamped
    _bilinear_row(source, row, size, sx, ONE, sy, 0, start, min(first, stop))
    _bilinear_row(source, row, size, sx, ONE, sy, 0, max(beyond, first), stop)
    weights = _weights(sx, sy)
    upper, lower = max(sy >> 16, 0), min((sy >> 16) + 1, size - 1)
    above, below = source[(upper * size + first + shift) * 3 :], source[(lower * size + first + shift) * 3 :]
    above_right, below_right, here = above[3:], below[3:], row[first * 3 :]
    for i in range(max(beyond - first, 0) * 3):
        here[i] = _between(above[i], above_right[i], below[i], below_right[i], weights)
