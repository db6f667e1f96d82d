"""numba kernels of the operations that map each level of a channel to another, whatever its neighbours.

Loops run over the flat image with unsigned indices: numba then drops its check for negative ones, and LLVM makes
vectors of them. So arithmetic on 150 kB takes 3 to 10 us, a look-up table 30: only equalize and autocontrast use one.
"""

import math

import numpy as np
from numba import njit

from pipeline.views import rand_augment as ra
from pipeline.views.rand_augment_tables import blend

u64 = np.uint64


@njit(nogil=True, cache=True)
def map_levels(flat, op, arg):
    """invert, posterize, solarize, solarize_add on u8 [n], in place."""
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
    """Contrast (mean: that of the grey image) and brightness (mean 0) on u8 [n], in place."""
    low = np.float32(mean)
    for i in range(flat.size):
        flat[i] = blend(low, flat[i], factor)


@njit(nogil=True, cache=True)
def autocontrast(flat):
    """ImageOps.autocontrast on u8 [pixels · 3]: stretch each channel to 0..255 in f64, truncated."""
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
    """ImageOps.equalize on u8 [pixels · 3]: cumulative histogram in integers."""
    # two histograms by turns: neighbours are often equal, and an add must not wait for the one before it
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
