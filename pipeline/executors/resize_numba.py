"""Resize a part of an image on a CPU by antialiased filters, to the bit as Pillow 13 does: views as papers have them.

Pillow resizes one axis, rounds to grey levels, and resizes the other. A pixel beyond the part does not exist.

    resize(BICUBIC, image, 7, 11, 370, 300, frame, view)     # frame [0, 0, 224, 224], view u8 [224, 224, 3]
"""

import numpy as np
from numba import njit

from pipeline.views.crop_flip import BILINEAR, BITS

i32, u64, HALF = np.int32, np.uint64, 1 << (BITS - 1)


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
    """Resize columns: u8 [rows, 3 · columns] from row `top`, pixel `left` on, to out u8 [rows, 3 w].

    The part is transposed, and the result back again: then sums run along rows, many at once, as in `_rows`.
    """
    rows, taps, across = out.shape[0], found.shape[1] - 1, found.shape[0]
    blocks = (rows + 7) // 8  # of eight rows, whose bytes in a column are one number
    part, view = (3 * breadth + 7) // 8, (3 * across + 7) // 8
    before, after = np.empty((8 * part, blocks), np.uint64), np.empty((8 * view, blocks), np.uint64)
    eight, shown = np.zeros((8, part), np.uint64), np.empty((8, view), np.uint64)
    for block in range(blocks):
        for y in range(min(8, rows - 8 * block)):
            held = eight[y].view(np.uint8)
            held[: 3 * breadth] = lines[top + 8 * block + y, 3 * left : 3 * (left + breadth)]
        for x in range(part):
            _transpose(eight[:, x], before[8 * x : 8 * x + 8, block])
    source, target, total = before.view(np.uint8), after.view(np.uint8), np.empty(8 * blocks, np.int32)
    for x in range(across):
        weight, n = found[x], found[x, taps]
        for c in range(3):
            total[:] = HALF
            at = 3 * begin[x] + c
            for k in range(0, n - 3, 4):
                i = at + 3 * k
                four = i32(weight[k]), i32(weight[k + 1]), i32(weight[k + 2]), i32(weight[k + 3])
                _add_four(total, source[i], source[i + 3], source[i + 6], source[i + 9], four)
            for k in range(n - n % 4, n):
                _add_one(total, source[at + 3 * k], i32(weight[k]))
            _levels(total, target[3 * x + c])
    for block in range(blocks):
        for x in range(view):
            _transpose(after[8 * x : 8 * x + 8, block], shown[:, x])
        for y in range(min(8, rows - 8 * block)):
            out[8 * block + y] = shown[y].view(np.uint8)[: 3 * across]


@njit(nogil=True, cache=True, inline="always")
def _transpose(lines, out):
    """Transpose 8 x 8 bytes, u64 [8] to u64 [8]: byte i of out[j] is byte j of lines[i]."""
    a, b, c, d, e, f, g, h = lines[0], lines[1], lines[2], lines[3], lines[4], lines[5], lines[6], lines[7]
    a, b = _swap(a, b, u64(8), u64(0x00FF00FF00FF00FF))
    c, d = _swap(c, d, u64(8), u64(0x00FF00FF00FF00FF))
    e, f = _swap(e, f, u64(8), u64(0x00FF00FF00FF00FF))
    g, h = _swap(g, h, u64(8), u64(0x00FF00FF00FF00FF))
    a, c = _swap(a, c, u64(16), u64(0x0000FFFF0000FFFF))
    b, d = _swap(b, d, u64(16), u64(0x0000FFFF0000FFFF))
    e, g = _swap(e, g, u64(16), u64(0x0000FFFF0000FFFF))
    f, h = _swap(f, h, u64(16), u64(0x0000FFFF0000FFFF))
    a, e = _swap(a, e, u64(32), u64(0x00000000FFFFFFFF))
    b, f = _swap(b, f, u64(32), u64(0x00000000FFFFFFFF))
    c, g = _swap(c, g, u64(32), u64(0x00000000FFFFFFFF))
    d, h = _swap(d, h, u64(32), u64(0x00000000FFFFFFFF))
    out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7] = a, b, c, d, e, f, g, h


@njit(nogil=True, cache=True, inline="always")
def _swap(one, other, shift, low):
    """Exchange the high halves of `one` and the low halves of `other`, which the mask `low` covers."""
    moved = ((one >> shift) ^ other) & low
    return one ^ (moved << shift), other ^ moved


@njit(nogil=True, cache=True)
def _add_one(total, source, weight):
    for x in range(total.size):
        total[x] += weight * i32(source[x])


@njit(nogil=True, cache=True)
def _add_four(total, one, two, three, four, weights):
    """Add four weighted lines at once: the sums are read and written once, not four times."""
    a, b, c, d = weights
    for x in range(total.size):
        total[x] += a * i32(one[x]) + b * i32(two[x]) + c * i32(three[x]) + d * i32(four[x])


@njit(nogil=True, cache=True)
def _levels(total, out):
    for x in range(total.size):
        out[x] = np.uint8(min(max(total[x] >> BITS, 0), 255))


@njit(nogil=True, cache=True)
def _rows(image, top, left, begin, found, out):
    """Resize rows: u8 [H, W, 3] from row `top`, pixel `left` on, to out u8 [h, 3 w]."""
    line, taps = out.shape[1], found.shape[1] - 1
    total = np.empty(line, np.int32)
    for y in range(out.shape[0]):
        total[:] = HALF
        weight, n, first = found[y], found[y, taps], top + begin[y]
        for k in range(0, n - 3, 4):
            i = first + k
            four = i32(weight[k]), i32(weight[k + 1]), i32(weight[k + 2]), i32(weight[k + 3])
            one, two = _line(image, i, left, line), _line(image, i + 1, left, line)
            _add_four(total, one, two, _line(image, i + 2, left, line), _line(image, i + 3, left, line), four)
        for k in range(n - n % 4, n):
            _add_one(total, _line(image, first + k, left, line), i32(weight[k]))
        _levels(total, out[y])


@njit(nogil=True, cache=True, inline="always")
def _line(image, y, left, line):
    """The pixels of a row from column `left` on: u8 [line]."""
    return image[y, left : left + line // 3].reshape(line)
