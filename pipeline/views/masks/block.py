"""Block-wise masking (MAE section 4.1 after BEiT): rectangles are hidden until enough patches are.

BEiT's generator may hide fewer patches than its target. An encoder that takes only visible patches needs the same
number in each image, so random patches are hidden until the number is exact.
"""

import numpy as np
from numba import njit

from pipeline import rng
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
    rectangles = rng.uniforms(rng.derive(keys, 1), 4 * TRIES).reshape(-1, TRIES, 4)
    total = grid[0] * grid[1]
    noise = rng.uniforms(rng.derive(keys, 2), total)
    hidden = np.zeros((len(keys), *grid), np.bool_)
    for image, draws in zip(hidden, rectangles, strict=True):
        _hide(image, draws, total - visible)
    noise[hidden.reshape(len(keys), -1)] += 1.0  # so hidden patches come last, and random ones before them
    return np.sort(np.argpartition(noise, visible - 1, axis=1)[:, :visible], axis=1)


@njit(nogil=True, cache=True)
def _hide(hidden, draws, target):
    (down, across), count = hidden.shape, 0
    for k in range(draws.shape[0]):
        left_over = target - count
        smallest = min(max(1.0, SMALLEST * down * across), left_over)
        area = smallest + draws[k, 0] * (left_over - smallest)
        aspect = np.exp(np.log(ASPECT) * (1.0 - 2.0 * draws[k, 1]))
        height, width = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if not (0 < height < down and 0 < width < across):
            continue
        top, left = int(draws[k, 2] * (down - height + 1)), int(draws[k, 3] * (across - width + 1))
        rectangle = hidden[top : top + height, left : left + width]
        new = height * width - rectangle.sum()
        if 0 < new <= left_over:
            rectangle[:] = True
            count += new
        if count == target:
            return
