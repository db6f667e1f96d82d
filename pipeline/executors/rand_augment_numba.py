"""Carry out RandAugment and colour jitter on one image, in place, by numba kernels that release the GIL.

Every operation rounds as Pillow does. Loops run over the flat image with unsigned indices: numba then drops its check
for negative ones, and LLVM vectorises them. Such arithmetic on 150 kB takes 3 to 10 µs, a look-up table 30: equalize
and autocontrast use one, the others compute. Geometry is in 16.16 fixed point, like Pillow's nearest-neighbour
transform.

    apply_ops(image, plan.ops[i], plan.args[i], nearest=True, fill=fill, scratch=scratch)
"""

import math

import numpy as np
from numba import njit

from pipeline.executors.rand_augment_tables import HALF, ONE, WEIGHT_BITS, affine, blend
from pipeline.views import rand_augment as ra

u64 = np.uint64
f32 = np.float32
f64 = np.float64
i32 = np.int32  # arithmetic is wrapped in it: numba would widen to 64 bits, and the loops lose half their lanes


@njit(nogil=True, cache=True)
def apply_ops(image, ops, args, nearest, fill, scratch):
    """Carry out one image's operations on it, in place; other kernels may call this one.

    image    u8  [H, W, 3]   C-contiguous; changed
    ops      i8  [L]         one row of Ops.ops
    args     f32 [L]
    nearest  bool            whether geometry reads the nearest pixel instead of interpolating bilinearly
    fill     u8  [3]         colour of pixels that geometry brings in from outside the image
    scratch  u8  [H, W, 3]   overwritten
    """
    height, width = image.shape[0], image.shape[1]
    flat, spare = image.reshape(image.size), scratch.reshape(image.size)
    for i in range(len(ops)):
        op, arg = ops[i], np.float32(args[i])
        if op == ra.IDENTITY:
            continue
        if op in (ra.INVERT, ra.POSTERIZE, ra.SOLARIZE, ra.SOLARIZE_ADD):
            map_levels(flat, op, arg)
        elif op == ra.BRIGHTNESS:
            blend_levels(flat, 0, arg)
        elif op == ra.CONTRAST:
            blend_levels(flat, mean_luma(flat), arg)
        elif op == ra.AUTOCONTRAST:
            autocontrast(flat)
        elif op == ra.EQUALIZE:
            equalize(flat)
        elif op == ra.COLOUR:
            colour(flat, arg)
        elif op == ra.SHARPNESS:
            sharpness(flat, height, width, arg)
        elif op == ra.HUE:
            hue(flat, arg)
        else:
            for j in range(flat.size):  # a plain loop: numba's array assignment takes ten times as long
                spare[j] = flat[j]
            a, b, c, d, e, f = affine(op, arg, height, width)
            warp(spare, flat, height, width, a, b, c, d, e, f, nearest, fill)


@njit(nogil=True, cache=True)
def map_levels(flat, op, arg):
    """Apply invert, posterize, solarize or solarize_add to u8 [n], in place."""
    if op == ra.INVERT:
        for i in range(flat.size):
            flat[i] = flat[i] ^ np.uint8(255)
    elif op == ra.POSTERIZE:
        mask = np.uint8(256 - (1 << (8 - int(arg))))
        for i in range(flat.size):
            flat[i] = flat[i] & mask
    elif op == ra.SOLARIZE:
        highest = np.int16(math.ceil(arg) - 1)  # the last level that stays
        for i in range(flat.size):
            flat[i] = flat[i] if flat[i] <= highest else flat[i] ^ np.uint8(255)
    else:
        added = np.int16(arg)
        for i in range(flat.size):
            level = min(np.int16(np.int16(flat[i]) + added), np.int16(255))
            flat[i] = np.uint8(level) if flat[i] < 128 else flat[i]


@njit(nogil=True, cache=True)
def blend_levels(flat, mean, factor):
    """Apply contrast (mean: that of the grey image) or brightness (mean 0) to u8 [n], in place."""
    low = np.float32(mean)
    for i in range(flat.size):
        flat[i] = blend(low, flat[i], factor)


@njit(nogil=True, cache=True)
def autocontrast(flat):
    """Apply ImageOps.autocontrast to u8 [pixels · 3]: stretch each channel to 0..255 in f64, truncated."""
    table = np.empty((3, 256), np.uint8)
    lows, highs = _extremes(flat)
    for channel in range(3):
        low, high = np.int64(lows[channel]), np.int64(highs[channel])
        scale = 255.0 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        for v in range(256):
            table[channel, v] = min(max(int(v * scale + offset), 0), 255)
    _apply_table(flat, table)


@njit(nogil=True, cache=True)
def _extremes(flat):
    low0 = low1 = low2 = np.uint8(255)
    high0 = high1 = high2 = np.uint8(0)
    for pixel in range(flat.size // 3):
        i = u64(pixel) * u64(3)
        red, green, blue = flat[i], flat[i + u64(1)], flat[i + u64(2)]
        low0, high0 = min(low0, red), max(high0, red)
        low1, high1 = min(low1, green), max(high1, green)
        low2, high2 = min(low2, blue), max(high2, blue)
    return (low0, low1, low2), (high0, high1, high2)


@njit(nogil=True, cache=True)
def equalize(flat):
    """Apply ImageOps.equalize to u8 [pixels · 3]: each level becomes its share of the cumulative histogram, in
    integers."""
    # two histograms in turn: neighbours are often equal, and an addition must not wait for the one before it
    counts = np.zeros((2, 3, 256), np.int32)
    pixels = flat.size // 3
    for pixel in range(pixels):
        i, turn = u64(pixel) * u64(3), u64(pixel) & u64(1)
        counts[turn, 0, flat[i]] += 1
        counts[turn, 1, flat[i + u64(1)]] += 1
        counts[turn, 2, flat[i + u64(2)]] += 1
    table = np.empty((3, 256), np.uint8)
    for channel in range(3):
        last = 255
        while counts[0, channel, last] + counts[1, channel, last] == 0:
            last -= 1
        step = (pixels - counts[0, channel, last] - counts[1, channel, last]) // 255
        total = step // 2
        for v in range(256):
            table[channel, v] = min(total // step, 255) if step > 0 else v
            total += counts[0, channel, v] + counts[1, channel, v]
    _apply_table(flat, table)


@njit(nogil=True, cache=True)
def _apply_table(flat, table):
    red, green, blue = table[0], table[1], table[2]
    for pixel in range(flat.size // 3):
        i = u64(pixel) * u64(3)
        flat[i] = red[flat[i]]
        flat[i + u64(1)] = green[flat[i + u64(1)]]
        flat[i + u64(2)] = blue[flat[i + u64(2)]]


@njit(nogil=True, cache=True)
def _luma(red, green, blue):
    """Compute Pillow's RGB -> L: ITU-R 601-2 in 16-bit fixed point, rounded."""
    total = i32(i32(red) * i32(19595)) + i32(i32(green) * i32(38470)) + i32(i32(blue) * i32(7471)) + i32(0x8000)
    return i32(i32(total) >> i32(16))


@njit(nogil=True, cache=True)
def mean_luma(flat):
    """Compute the grey that ImageEnhance.Contrast blends with: the mean of L, rounded half up; flat u8 [pixels · 3]."""
    total = 0
    for pixel in range(flat.size // 3):
        i = u64(pixel) * u64(3)
        total += _luma(flat[i], flat[i + u64(1)], flat[i + u64(2)])
    return int(total / (flat.size // 3) + 0.5)


@njit(nogil=True, cache=True)
def colour(flat, factor):
    """Apply ImageEnhance.Color in place: blend with the grey image."""
    for pixel in range(flat.size // 3):
        i = u64(pixel) * u64(3)
        red, green, blue = flat[i], flat[i + u64(1)], flat[i + u64(2)]
        grey = f32(_luma(red, green, blue))
        flat[i] = blend(grey, red, factor)
        flat[i + u64(1)] = blend(grey, green, factor)
        flat[i + u64(2)] = blend(grey, blue, factor)


@njit(nogil=True, cache=True)
def sharpness(flat, height, width, factor):
    """Apply ImageEnhance.Sharpness in place: blend with the image smoothed by (111, 151, 111) / 13; the border
    stays."""
    line = width * 3
    above, here, columns = np.empty(line, np.uint8), np.empty(line, np.uint8), np.empty(line, np.int16)
    left, middle, right = columns, columns[3:], columns[6:]
    for x in range(line):
        here[x] = flat[x]
    for y in range(1, height - 1):
        above, here = here, above
        row, below = flat[y * line : (y + 1) * line], flat[(y + 1) * line : (y + 2) * line]
        for x in range(line):
            here[x] = row[x]
            columns[x] = np.int16(np.int16(above[x]) + np.int16(row[x]) + np.int16(below[x]))
        inner, out = here[3:], row[3:]
        for x in range(line - 6):
            total = np.uint16(left[x] + middle[x] + right[x] + np.int16(4) * np.int16(inner[x]) + np.int16(6))
            out[x] = blend(f32(np.uint16(total // np.uint16(13))), inner[x], factor)


@njit(nogil=True, cache=True, error_model="numpy")
def hue(flat, turn):
    """Apply torchvision's adjust_hue to Pillow's 8-bit HSV, in place: add int(turn · 255) to H, modulo 256.

    Every case is computed and one selected: without branches the loop does eight pixels at a time, five times faster.
    """
    shift = i32(f64(turn) * 255)
    for pixel in range(flat.size // 3):
        i = u64(pixel) * u64(3)
        red, green, blue = flat[i], flat[i + u64(1)], flat[i + u64(2)]
        value, low = max(red, green, blue), min(red, green, blue)
        spread = f32(i32(value) - i32(low))
        angle = (_angle(red, green, blue, value, max(spread, f32(1))) + shift) & i32(255)
        saturation = i32(f64(spread / max(f32(value), f32(1))) * 255.0)
        position = f64(angle) * 6.0 / 255.0
        sector = i32(position)
        p, q, t = _levels(f64(value), f64(saturation) / 255.0, position - f64(sector))
        flat[i] = _select(sector, value, q, p, p, t, value)
        flat[i + u64(1)] = _select(sector, t, value, value, q, p, p)
        flat[i + u64(2)] = _select(sector, p, p, t, value, value, q)


@njit(nogil=True, cache=True, error_model="numpy")
def _angle(red, green, blue, high, spread):
    """Compute H in 0..255, truncated; f32 with f64 steps exactly where Pillow has them."""
    to_red = f32(i32(high) - i32(red)) / spread
    to_green = f32(i32(high) - i32(green)) / spread
    to_blue = f32(i32(high) - i32(blue)) / spread
    from_red = to_blue - to_green
    from_green = f32(2.0 + to_red - to_blue)
    from_blue = f32(4.0 + to_green - to_red)
    angle = from_green if green == high else from_blue
    angle = from_red if red == high else angle
    whole = f64(angle) / 6.0 + 1.0
    less = whole - 1.0
    return i32(f64(f32(less if whole >= 1.0 else whole)) * 255.0)


@njit(nogil=True, cache=True)
def _levels(value, amount, part):
    p = value * (1.0 - amount) + 0.5
    q = value * (1.0 - amount * part) + 0.5
    t = value * (1.0 - amount * (1.0 - part)) + 0.5
    return np.uint8(i32(p)), np.uint8(i32(q)), np.uint8(i32(t))


@njit(nogil=True, cache=True)
def _select(sector, zero, one, two, three, four, five):
    """Select a level by the sector 0..6 of the hue; 6 is 0 again."""
    level = one if sector == 1 else zero
    level = two if sector == 2 else level
    level = three if sector == 3 else level
    level = four if sector == 4 else level
    return five if sector == 5 else level


@njit(nogil=True, cache=True)
def warp(source, out, height, width, a, b, c, d, e, f, nearest, fill):
    """Set out(x, y) = source(a·x + b·y + c, d·x + e·y + f) in 16.16, or `fill` outside it; both u8 [H · W · 3]."""
    for y in range(height):
        row = out[y * width * 3 : (y + 1) * width * 3]
        sx, sy = b * y + c, e * y + f
        start, stop = _inside(sx, a, 0, width, width << 16)
        start, stop = _inside(sy, d, start, stop, height << 16)
        _fill(row, 0, start, fill)
        _fill(row, stop, width, fill)
        if start == stop:
            continue
        if d == 0 and a == ONE:
            if nearest:
                first = (sy >> 16) * width + (sx >> 16)
                here, there = row[start * 3 : stop * 3], source[(first + start) * 3 :]
                for i in range((stop - start) * 3):
                    here[i] = there[i]
            else:
                _shifted_row(source, row, height, width, sx - HALF, sy - HALF, start, stop)
        elif nearest:
            _nearest_row(source, row, width, sx, a, sy, d, start, stop)
        else:
            _bilinear_row(source, row, height, width, sx - HALF, a, sy - HALF, d, start, stop)


@njit(nogil=True, cache=True)
def _inside(first, step, start, stop, limit):
    """Find the part of start..stop where first + step · x is in 0..limit; one interval, as the coordinate is
    monotone."""
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
def _nearest_row(source, row, width, sx, a, sy, d, start, stop):
    for x in range(start, stop):
        u, v = (a * x + sx) >> 16, (d * x + sy) >> 16
        i, j = u64(x) * u64(3), u64((v * width + u) * 3)
        row[i], row[i + u64(1)], row[i + u64(2)] = source[j], source[j + u64(1)], source[j + u64(2)]


@njit(nogil=True, cache=True)
def _weights(u, v):
    """Compute the weights i32 of the four pixels around (u, v), left before right, upper before lower; their sum is
    2^(2 · WEIGHT_BITS)."""
    across, down = i32((u & 0xFFFF) >> (16 - WEIGHT_BITS)), i32((v & 0xFFFF) >> (16 - WEIGHT_BITS))
    both = i32(across * down)
    right, lower = i32(i32(across << WEIGHT_BITS) - both), i32(i32(down << WEIGHT_BITS) - both)
    return i32((1 << 2 * WEIGHT_BITS) - right - lower - both), right, lower, both


@njit(nogil=True, cache=True)
def _between(p, q, r, s, weights):
    """Compute the weighted mean of four levels, truncated. Without the i32 wraps numba widens to 64 bits: half the
    lanes."""
    upper = i32(i32(i32(p) * weights[0]) + i32(i32(q) * weights[1]))
    lower = i32(i32(i32(r) * weights[2]) + i32(i32(s) * weights[3]))
    return np.uint8(i32(upper + lower) >> i32(2 * WEIGHT_BITS))


@njit(nogil=True, cache=True)
def _bilinear_row(source, row, height, width, sx, a, sy, d, start, stop):
    last_row, last = height - 1, width - 1
    for x in range(start, stop):
        u, v = a * x + sx, d * x + sy
        weights = _weights(u, v)
        left, right = max(u >> 16, 0), min((u >> 16) + 1, last)
        upper, lower = max(v >> 16, 0) * width, min((v >> 16) + 1, last_row) * width
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
def _shifted_row(source, row, height, width, sx, sy, start, stop):
    """Fill a row that moves sideways as a whole (shear_x, translate_*): the weights are the same everywhere, and reads
    are contiguous."""
    shift = sx >> 16
    first, beyond = max(start, -shift), min(stop, width - 1 - shift)  # where neither tap is clamped
    _bilinear_row(source, row, height, width, sx, ONE, sy, 0, start, min(first, stop))
    _bilinear_row(source, row, height, width, sx, ONE, sy, 0, max(beyond, first), stop)
    weights = _weights(sx, sy)
    upper, lower = max(sy >> 16, 0), min((sy >> 16) + 1, height - 1)
    above, below = source[(upper * width + first + shift) * 3 :], source[(lower * width + first + shift) * 3 :]
    above_right, below_right, here = above[3:], below[3:], row[first * 3 :]
    for i in range(max(beyond - first, 0) * 3):
        here[i] = _between(above[i], above_right[i], below[i], below_right[i], weights)
