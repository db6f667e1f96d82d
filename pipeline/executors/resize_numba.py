"""Resize a part of an image on a CPU by antialiased filters, to the bit as Pillow 13 does: views as papers have them.

Pillow resizes one axis, rounds to grey levels, and resizes the other. A pixel beyond the part does not exist.

    resize(BICUBIC, image, 7, 11, 370, 300, frame, view)     # frame [0, 0, 224, 224], view u8 [224, 224, 3]
"""

import numpy as np
from numba import njit

from pipeline.views.crop_flip import BILINEAR, BITS

u64, HALF = np.uint64, 1 << (BITS - 1)
BIAS = u64((1 << 28) + HALF)
"""Added to both halves of a 64-bit number that holds two sums: each lies between -0.14 and 1.14 times 255 · 2^BITS."""
BOTH = u64((1 << 32) + 1)


@njit(nogil=True, cache=True)
def resize(kind, image, top, left, height, breadth, frame, out):
    """Resize the part of an image u8 [H, W, 3] from (top, left), height x breadth, into a view u8 [h, w, 3].

    frame  i32 [4]: the view's first row and column in the resized part, and that one's rows and columns. The view may
           lie beyond its border, where it is reflected
    """
    down, across = out.shape[0], out.shape[1]
    begin_y, weights_y = weights(kind, height, frame[2], frame[0], down)
    begin_x, weights_x = weights(kind, breadth, frame[3], frame[1], across)
    view = out.reshape(down, 3 * across)
    if rows_first(height, breadth, frame[2], frame[3]):
        low, high = touched(begin_x, weights_x)
        between = np.empty((down, 3 * (high - low)), np.uint8)
        _rows(image, top, left + low, begin_y, weights_y, between)
        _columns(between, 0, 0, high - low, begin_x - low, weights_x, view)
    else:
        low, high = touched(begin_y, weights_y)
        between = np.empty((high - low, 3 * across), np.uint8)
        lines = image.reshape(image.shape[0], 3 * image.shape[1])
        _columns(lines, top + low, left, breadth, begin_x, weights_x, between)
        _rows(between.reshape(high - low, across, 3), 0, 0, begin_y - low, weights_y, view)


@njit(nogil=True, cache=True, inline="always")
def rows_first(height, breadth, resized_height, resized_breadth):
    """Whether Pillow 13 resizes rows before columns: where it removes more than twice as many of them."""
    return height - resized_height > 2 * max(breadth - resized_breadth, 0)


@njit(nogil=True, cache=True)
def touched(begin, found):
    """The first pixel, and the one after the last, that any pixel of a view reads on one axis."""
    low, high, taps = begin[0], 0, found.shape[1] - 1
    for j in range(len(begin)):
        low, high = min(low, begin[j]), max(high, begin[j] + found[j, taps])
    return low, high


@njit(nogil=True, cache=True)
def weights(kind, extent, resized, start, size):
    """Weights of the pixels under each of `size` pixels of a view on one axis: the first pixel, i64 [size]; and i64
    [size, taps + 1], weights of 2^BITS in all, 0 behind the last, and in the last column how many there are.

    extent   pixels of the part; resized   pixels that it becomes; start   the first of these that the view shows
    """
    scale = extent / resized
    wide = max(scale, 1.0)
    support = kind * wide
    taps = int(np.ceil(support)) * 2 + 1
    begin, found, each = np.empty(size, np.int64), np.zeros((size, taps + 1), np.int64), np.empty(taps)
    for j in range(size):
        at = abs(start + j)
        at = (resized - 1) - abs((resized - 1) - at)
        centre = (at + 0.5) * scale
        low, high = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), extent)
        total = 0.0
        for k in range(high - low):
            each[k] = _filter(kind, (k + low - centre + 0.5) * (1.0 / wide))
            total += each[k]
        for k in range(high - low):
            weight = each[k] / total * (1 << BITS)
            found[j, k] = int(weight - 0.5) if weight < 0 else int(weight + 0.5)  # towards 0, as C casts
        begin[j], found[j, taps] = low, high - low
    return begin, found


@njit(nogil=True, cache=True, inline="always")
def _filter(kind, x):
    """The triangle (bilinear), or the cubic with a = -1/2 (bicubic), at x."""
    x = abs(x)
    if kind == BILINEAR:
        return max(1.0 - x, 0.0)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return 0.0


@njit(nogil=True, cache=True)
def _columns(lines, top, left, breadth, begin, found, out):
    """Resize columns: u8 [rows, 3 · columns] from row `top`, pixel `left` on, to out u8 [rows, 3 w]."""
    one, other, blue = np.empty(breadth, np.uint64), np.empty(breadth, np.uint64), np.empty(breadth, np.uint64)
    rows, taps, shift = out.shape[0], found.shape[1] - 1, u64(32)
    for y in range(0, rows, 2):  # two rows at once: six channels are three numbers of two sums each
        below = min(y + 1, rows - 1)
        first, second = lines[top + y], lines[top + below]
        for x in range(breadth):
            at = 3 * (left + x)
            one[x] = u64(first[at]) | (u64(first[at + 1]) << shift)
            other[x] = u64(second[at]) | (u64(second[at + 1]) << shift)
            blue[x] = u64(first[at + 2]) | (u64(second[at + 2]) << shift)
        for x in range(out.shape[1] // 3):
            a = b = c = BIAS * BOTH
            at = begin[x]
            for k in range(found[x, taps]):  # modulo 2^64: what negative weights borrow is given back at the end
                weight = u64(found[x, k])
                a += one[at + k] * weight
                b += other[at + k] * weight
                c += blue[at + k] * weight
            out[y, 3 * x], out[y, 3 * x + 1], out[y, 3 * x + 2] = _level(a), _level(a >> shift), _level(c)
            out[below, 3 * x], out[below, 3 * x + 1], out[below, 3 * x + 2] = (
                _level(b), _level(b >> shift), _level(c >> shift),
            )  # fmt: skip


@njit(nogil=True, cache=True, inline="always")
def _level(total):
    """The grey level of the sum in the lower half."""
    value = np.int64((total & u64(0xFFFFFFFF)) >> u64(BITS)) - (1 << (28 - BITS))
    return np.uint8(min(max(value, 0), 255))


@njit(nogil=True, cache=True)
def _rows(image, top, left, begin, found, out):
    """Resize rows: u8 [H, W, 3] from row `top`, pixel `left` on, to out u8 [h, 3 w]."""
    line, taps = out.shape[1], found.shape[1] - 1
    total = np.empty(line, np.int32)
    for y in range(out.shape[0]):
        total[:] = HALF
        for k in range(found[y, taps]):
            weight = np.int32(found[y, k])
            source = image[top + begin[y] + k, left : left + line // 3].reshape(line)
            for x in range(line):
                total[x] += weight * np.int32(source[x])
        target = out[y]
        for x in range(line):
            target[x] = np.uint8(min(max(total[x] >> BITS, 0), 255))
