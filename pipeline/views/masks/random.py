"""Uniform random masking: each image keeps its own random patches (MAE section 3, "Masking")."""

import numpy as np
from numba import njit

from pipeline.rng_numba import bits, lowest, places
from pipeline.spec import Mask
from pipeline.views.masks import share_visible


def visible_count(mask: Mask, grid: tuple[int, int]) -> int:
    """Count the visible patches: MAE's floor(L (1 - ratio)) of the L patches of the grid."""
    return share_visible(mask, grid)


def draw(mask: Mask, keys: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, None]:
    """Draw the visible patches of N images: keys u64 [N] -> ids i64 [N, K], ascending."""
    return random_mask(keys, grid, visible_count(mask, grid)), None


def random_mask(keys: np.ndarray, grid: tuple[int, int], visible: int) -> np.ndarray:
    """Draw the ids of the visible patches, i64 [N, visible], ascending: those with the lowest random numbers."""
    ids = np.empty((len(keys), visible), np.int64)
    _draw(keys, grid[0] * grid[1], ids)
    return ids


@njit(nogil=True, cache=True)
def _draw(keys, total, ids):
    noise, shown = np.empty(total, np.uint64), np.empty(total, np.bool_)
    for i in range(len(keys)):
        for patch in range(total):
            noise[patch] = bits(keys[i], patch)
        lowest(noise, ids.shape[1], shown)
        places(shown, ids[i])
