"""numba kernels of the colour operations that mix channels or neighbours, with Pillow's rounding."""

import numpy as np
from numba import njit

from pipeline.views.rand_augment_tables import blend

u64 = np.uint64
f32 = np.float32
i32 = np.int32  # arithmetic is wrapped in it: numba would widen to 64 bits, and the loops lose half their lanes


@njit(nogil=True, cache=True, inline="always")
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


@njit(nogil=True, cache=True)
def hue(flat, turn):
    """torchvision's adjust_hue on Pillow's 8-bit HSV, in place: add int(turn · 255) to H, modulo 256."""
    shift = int(np.float64(turn) * 255)
    for pixel in range(flat.size // 3):
        i = u64(pixel) * u64(3)
        red, green, blue = flat[i], flat[i + u64(1)], flat[i + u64(2)]
        high, low = max(red, green, blue), min(red, green, blue)
        if high == low:
            continue
        angle, saturation = _hue_saturation(red, green, blue, high, low)
        flat[i], flat[i + u64(1)], flat[i + u64(2)] = _rgb((angle + shift) & 255, saturation, high)


@njit(nogil=True, cache=True, inline="always")
def _hue_saturation(red, green, blue, high, low):
    """H and S in 0..255, truncated; f32 with f64 steps exactly where Pillow has them."""
    spread = np.float32(int(high) - int(low))
    to_red = np.float32(int(high) - int(red)) / spread
    to_green = np.float32(int(high) - int(green)) / spread
    to_blue = np.float32(int(high) - int(blue)) / spread
    if red == high:
        angle = np.float64(to_blue - to_green)
    elif green == high:
        angle = np.float64(np.float32(2.0 + to_red - to_blue))
    else:
        angle = np.float64(np.float32(4.0 + to_green - to_red))
    angle = angle / 6.0 + 1.0
    fraction = np.float32(angle - 1.0 if angle >= 1.0 else angle)
    return int(np.float64(fraction) * 255.0), int(np.float64(spread / np.float32(high)) * 255.0)


@njit(nogil=True, cache=True, inline="always")
def _rgb(angle, saturation, value):
    if saturation == 0:
        return value, value, value
    position = angle * 6.0 / 255.0
    sector = int(position)
    part, amount = position - sector, saturation / 255.0
    p = _level(value * (1.0 - amount))
    q = _level(value * (1.0 - amount * part))
    t = _level(value * (1.0 - amount * (1.0 - part)))
    sector %= 6
    if sector == 0:
        return value, t, p
    if sector == 1:
        return q, value, p
    if sector == 2:
        return p, value, t
    if sector == 3:
        return p, q, value
    if sector == 4:
        return t, p, value
    return value, p, q


@njit(nogil=True, cache=True, inline="always")
def _level(x):
    return np.uint8(x + 0.5)
