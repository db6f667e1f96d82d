"""Look-up tables and affine maps that every executor of RandAugment takes, in Pillow's integers and floats.

Bilinear reads keep WEIGHT_BITS of each fraction. Executors compute with the same integers, so they agree bit by bit.
"""

import math

import numpy as np
from numba import njit

from pipeline.views import rand_augment as ra

ONE = 65536  # 16.16 fixed point, as in Pillow's Geometry.c
HALF = ONE // 2
WEIGHT_BITS = 11  # of a bilinear weight: 8 + 2 · 11 fits in an i32


@njit(nogil=True, cache=True)
def blend(low, high, factor):
    """Blend two levels as Pillow's Image.blend does in f32: low + factor · (high - low), clipped, truncated; u8."""
    value = np.float32(low) + factor * (np.float32(high) - np.float32(low))
    return np.uint8(min(max(value, np.float32(0)), np.float32(255)))


@njit(nogil=True, cache=True)
def fixed_tables(ops, args):
    """Make the tables u8 [M, 256] of M operations that need no statistics of the image (invert .. brightness)."""
    tables = np.empty((len(ops), 256), np.uint8)
    for i in range(len(ops)):
        op, arg = ops[i], args[i]
        for v in range(256):
            if op == ra.INVERT:
                tables[i, v] = 255 - v
            elif op == ra.POSTERIZE:
                tables[i, v] = v & (256 - (1 << (8 - int(arg))))
            elif op == ra.SOLARIZE:
                tables[i, v] = v if v < arg else 255 - v
            elif op == ra.SOLARIZE_ADD:
                tables[i, v] = min(v + int(arg), 255) if v < 128 else v
            else:
                tables[i, v] = blend(0, v, arg)
    return tables


@njit(nogil=True, cache=True)
def affine(op, arg, height, width):
    """Map destination to source in 16.16: a .. f with source x = a·x + b·y + c and source y = d·x + e·y + f."""
    arg = np.float64(arg)
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    if op == ra.ROTATE:
        angle = -math.radians(arg)
        a, b = math.cos(angle), math.sin(angle)
        d, e = -b, a
        x, y = width / 2, height / 2
        c, f = x - a * x - b * y, y - d * x - e * y
    elif op == ra.SHEAR_X:
        b = arg
    elif op == ra.SHEAR_Y:
        d = arg
    elif op == ra.TRANSLATE_X:
        c = arg * width
    elif op == ra.TRANSLATE_Y:
        f = arg * height
    c += (a + b) / 2
    f += (d + e) / 2
    return _fixed(a), _fixed(b), _fixed(c), _fixed(d), _fixed(e), _fixed(f)


@njit(nogil=True, cache=True)
def _fixed(value):
    return math.floor(value * ONE + 0.5)


@njit(nogil=True, cache=True)
def affines(ops, args, height, width):
    """Make the affine maps i64 [M, 6] of M operations on images of one size."""
    maps = np.empty((len(ops), 6), np.int64)
    for i in range(len(ops)):
        a, b, c, d, e, f = affine(ops[i], args[i], height, width)
        maps[i, 0], maps[i, 1], maps[i, 2], maps[i, 3], maps[i, 4], maps[i, 5] = a, b, c, d, e, f
    return maps
