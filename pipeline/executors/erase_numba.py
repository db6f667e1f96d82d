"""Erase one box of one image, in place, by numba kernels that release the GIL.

erase_noise(image, plan.erased[v, i], plan.noise[v, i])     # or erase_fill(image, box, CUTOUT_FILL)
"""

import numpy as np
from numba import njit

from pipeline import rng
from pipeline.rng_numba import finalise
from pipeline.views.erase import BASE, STEP

u64 = np.uint64


@njit(nogil=True, cache=True)
def erase_fill(image, box, fill):
    """Fill one box of u8 [H, W, 3] with a colour u8 [3], in place."""
    top, left, height, width = box
    red, green, blue = fill[0], fill[1], fill[2]
    for y in range(top, top + height):
        row = image[y].reshape(image.shape[1] * 3)[left * 3 :]
        for x in range(width):
            i = u64(x) * u64(3)
            row[i], row[i + u64(1)], row[i + u64(2)] = red, green, blue


@njit(nogil=True, cache=True)
def erase_noise(image, box, key):
    """Fill one box of u8 [H, W, 3] with noise, in place; key u64 from noise_keys.

    The bits of pixel i of the image are rng.mix(key + i · GOLDEN), in scalars.
    """
    top, left, height, width = box
    across = image.shape[1]
    for y in range(top, top + height):
        row = image[y].reshape(across * 3)[left * 3 :]
        first = u64(key) + u64(y * across + left + 1) * u64(rng.GOLDEN)
        for x in range(width):
            z = finalise(first + u64(x) * u64(rng.GOLDEN))
            i = u64(x) * u64(3)
            row[i] = _noise_level(z, BASE[0], STEP[0])
            row[i + u64(1)] = _noise_level(z >> u64(21), BASE[1], STEP[1])
            row[i + u64(2)] = _noise_level(z >> u64(42), BASE[2], STEP[2])


@njit(nogil=True, cache=True)
def _noise_level(bits, base, step):
    low = np.uint32(bits & u64(0x1FFFFF))
    total = np.int32((low & np.uint32(127)) + ((low >> np.uint32(7)) & np.uint32(127)) + (low >> np.uint32(14)))
    level = np.int32(np.int32(np.int32(base) + np.int32(np.int32(step) * total)) >> np.int32(16))
    return np.uint8(min(max(level, np.int32(0)), np.int32(255)))
