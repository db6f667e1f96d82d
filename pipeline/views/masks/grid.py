"""Grid masking: one of every four patches stays, always the same (MAE section 4.1, "Mask sampling strategy")."""

import numpy as np

from pipeline.errors import InputError
from pipeline.spec import Mask
from pipeline.views.masks import share_visible


def visible_count(mask: Mask, grid: int) -> int:
    """Count the visible patches: MAE's floor(L (1 - ratio)) of the L = grid² patches."""
    return share_visible(mask, grid)


def draw(mask: Mask, keys: np.ndarray, grid: int) -> tuple[np.ndarray, None]:
    """Give the visible patches of N images, the same for each: keys u64 [N] -> ids i64 [N, K], ascending."""
    return grid_mask(keys, grid, visible_count(mask, grid)), None


def grid_mask(keys: np.ndarray, grid: int, visible: int) -> np.ndarray:
    """List the ids of the visible patches, i64 [N, visible]: the upper left one of each 2 x 2 cell.

    Raises InputError unless the grid is even and a quarter of it is to stay.
    """
    if grid % 2 or 4 * visible != grid * grid:
        raise InputError(
            f"a grid mask keeps a quarter of an even grid, got {visible} of {grid} x {grid}; use ratio 0.75"
        )
    even = np.arange(0, grid, 2)
    return np.broadcast_to((even[:, None] * grid + even).ravel(), (len(keys), visible)).copy()
