"""numba kernels of the colour operations that mix channels or neighbours, with Pillow's rounding."""

import numpy as np
from numba import njit

from pipeline.views.rand_augment_tables import blend

u64 = np.uint64
f32 = np.float32
f64 = np.float64
i32 = np.int32  # arithmetic is wrapped in it: numba would widen to 64 bits, and the loops lose half their lanes


@njit(nogil=True, cache=True)
def _luma(red, green, blue):
    """Pillow's RGB -> L: ITU-R 601-2 in 16-bit fixed point, rounded."""
    total = i32(i32(red) * i32(19595)) + i32(i32(green) * i32(38470)) + i32(i32(blue) * i32(7471)) + i32(0x8000)
    return i32(i32(total) >> i32(16))


@njit(nogil=True, cache=True)
def mean_luma(flat):
    """What ImageEnhance.Contrast blends with: the mean of L, rounded half up; flat u8 [pixels · 3]."""
    total = 0
    for pixel in range(flat.size // 3):
        i = u64(pixel) * u64(3)
        total += _luma(flat[i], flat[i + u64(1)], flat[i + u64(2)])
    return int(total / (flat.size // 3) + 0.5)


@njit(nogil=True, cache=True)
def colour(flat, factor):
    """ImageEnhance.Color, in place: blend with the grey image."""
    for pixel in range(flat.size // 3):
        i = u64(pixel) * u64(3)
        red, green, blue = flat[i], flat[i + u64(1)], flat[i + u64(2)]
        grey = f32(_luma(red, green, blue))
        flat[i] = blend(grey, red, factor)
        flat[i + u64(1)] = blend(grey, green, factor)
        flat[i + u64(2)] = blend(grey, blue, factor)


@njit(nogil=True, cache=True)
def sharpness(flat, size, factor):
    """ImageEnhance.Sharpness, in place: blend with the image smoothed by (111, 151, 111) / 13; the border stays."""
    width = size * 3
    above, here, columns = np.empty(width, np.uint8), np.empty(width, np.uint8), np.empty(width, np.int16)
    left, middle, right = columns, columns[3:], columns[6:]
    for x in range(width):
        here[x] = flat[x]
    for y in range(1, size - 1):
        above, here = here, above
        row, below = flat[y * width : (y + 1) * width], flat[(y + 1) * width : (y + 2) * width]
        for x in range(width):
            here[x] = row[x]
            columns[x] = np.int16(np.int16(above[x]) + np.int16(row[x]) + np.int16(below[x]))
        inner, out = here[3:], row[3:]
        for x in range(width - 6):
            total = np.uint16(left[x] + middle[x] + right[x] + np.int16(4) * np.int16(inner[x]) + np.int16(6))
            out[x] = blend(f32(np.uint16(total // np.uint16(13))), inner[x], factor)


@njit(nogil=True, cache=True, error_model="numpy")
def hue(flat, turn):
    """torchvision's adjust_hue on Pillow's 8-bit HSV, in place: add int(turn · 255) to H, modulo 256.

    Without a branch, five times faster: every case is computed and one selected, eight pixels at a time.
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
    """H in 0..255, truncated; f32 with f64 steps exactly where Pillow has them."""
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
    """By sector 0..6; 6 is 0 again."""
    level = one if sector == 1 else zero
    level = two if sector == 2 else level
    level = three if sector == 3 else level
    level = four if sector == 4 else level
    return five if sector == 5 else level
