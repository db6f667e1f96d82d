"""Grid masking: one of every four patches stays, always the same (MAE section 4.1, "Mask sampling strategy")."""

import numpy as np

from pipeline.errors import InputError
from pipeline.spec import Mask
from pipeline.views.masks import share_visible


def visible_count(mask: Mask, grid: tuple[int, int]) -> int:
    """Count the visible patches: MAE's floor(L (1 - ratio)) of the L patches of the grid."""
    return share_visible(mask, grid)


def draw(mask: Mask, keys: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, None]:
    """Give the visible patches of N images, the same for each: keys u64 [N] -> ids i64 [N, K], ascending."""
    return grid_mask(keys, grid, visible_count(mask, grid)), None


def grid_mask(keys: np.ndarray, grid: tuple[int, int], visible: int) -> np.ndarray:
    """List the ids of the visible patches, i64 [N, visible]: the upper left one of each 2 x 2 cell.

    Raises InputError unless both sides of the grid are even and a quarter of it is to stay.
    """
    down, across = grid
    if down % 2 or across % 2 or 4 * visible != down * across:
        raise InputError(
            f"a grid mask keeps a quarter of an even grid, got {visible} of {down} x {across}; use ratio 0.75"
        )
    rows, columns = np.arange(0, down, 2), np.arange(0, across, 2)
    return np.broadcast_to((rows[:, None] * across + columns).ravel(), (len(keys), visible)).copy()
