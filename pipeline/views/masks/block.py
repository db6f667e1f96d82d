"""Block-wise masking (MAE section 4.1 after BEiT): rectangles are hidden until enough patches are.

BEiT's generator may hide fewer patches than its target. An encoder that takes only visible patches needs the same
number in each image, so random patches are hidden until the number is exact.
"""

import numpy as np
from numba import njit

from pipeline.rng_numba import bits, derive, lowest, places, uniform
from pipeline.spec import Mask
from pipeline.views.masks import share_visible

TRIES = 64  # BEiT tries ten times for each rectangle; a handful of rectangles fill any target
SMALLEST = 16 / 196  # BEiT's 16 of 196 patches, at any grid
ASPECT = 0.3


def visible_count(mask: Mask, grid: tuple[int, int]) -> int:
    """Count the visible patches: MAE's floor(L (1 - ratio)) of the L patches of the grid."""
    return share_visible(mask, grid)


def draw(mask: Mask, keys: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, None]:
    """Draw the visible patches of N images: keys u64 [N] -> ids i64 [N, K], ascending."""
    return block_mask(keys, grid, visible_count(mask, grid)), None


def block_mask(keys: np.ndarray, grid: tuple[int, int], visible: int) -> np.ndarray:
    """Draw the ids of the visible patches, i64 [N, visible], ascending."""
    ids = np.empty((len(keys), visible), np.int64)
    _draw(keys, grid, ids)
    return ids


@njit(nogil=True, cache=True)
def _draw(keys, grid, ids):
    hidden = np.empty(grid, np.bool_)
    flat = hidden.reshape(hidden.size)
    noise, shown = np.empty(hidden.size, np.uint64), np.empty(hidden.size, np.bool_)
    for i in range(len(keys)):
        hidden[:] = False
        _hide(hidden, derive(keys[i], 1), hidden.size - ids.shape[1])
        key = derive(keys[i], 2)
        for patch in range(hidden.size):  # hidden patches come last, and random ones before them
            noise[patch] = bits(key, patch) + (np.uint64(flat[patch]) << np.uint64(53))
        lowest(noise, ids.shape[1], shown)
        places(shown, ids[i])


@njit(nogil=True, cache=True)
def _hide(hidden, key, target):
    (down, across), count = hidden.shape, 0
    for k in range(0, 4 * TRIES, 4):
        left_over = target - count
        smallest = min(max(1.0, SMALLEST * down * across), left_over)
        area = smallest + uniform(key, k) * (left_over - smallest)
        aspect = np.exp(np.log(ASPECT) * (1.0 - 2.0 * uniform(key, k + 1)))
        height, width = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if not (0 < height < down and 0 < width < across):
            continue
        top, left = int(uniform(key, k + 2) * (down - height + 1)), int(uniform(key, k + 3) * (across - width + 1))
        rectangle = hidden[top : top + height, left : left + width]
        new = height * width - rectangle.sum()
        if 0 < new <= left_over:
            rectangle[:] = True
            count += new
        if count == target:
            return
