"""Masking in units of several patches (SimMIM: Xie et al. 2022): a unit is hidden or visible as a whole."""

import numpy as np
from numba import njit

from pipeline.errors import InputError
from pipeline.rng_numba import bits, lowest
from pipeline.spec import Mask
from pipeline.views.masks import checked


def hidden_units(ratio: float, unit: int, grid: tuple[int, int]) -> int:
    """Count the hidden units as SimMIM does, ceil(ratio · U) of the U units of a grid.

    Raises InputError where units do not fill the grid.
    """
    down, across = grid
    if unit < 1 or down % unit or across % unit:
        raise InputError(
            f"units of {unit} x {unit} patches do not fill a grid of {down} x {across}; choose another data.mask.unit"
        )
    return int(np.ceil(ratio * (down // unit * (across // unit)) - 1e-9))  # 0.6 of 25 is 15, not 16


def visible_count(mask: Mask, grid: tuple[int, int]) -> int:
    """Count the visible patches: all but those of SimMIM's hidden units."""
    total = grid[0] * grid[1]
    return checked(mask, total - mask.unit**2 * hidden_units(mask.ratio, mask.unit, grid), total)


def draw(mask: Mask, keys: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, None]:
    """Draw the visible patches of N images: keys u64 [N] -> ids i64 [N, K], ascending."""
    hidden = (grid[0] * grid[1] - visible_count(mask, grid)) // mask.unit**2
    return unit_mask(keys, grid, mask.unit, hidden), None


def unit_mask(keys: np.ndarray, grid: tuple[int, int], unit: int, hidden: int) -> np.ndarray:
    """Draw the ids of the visible patches, i64 [N, K], ascending: all but those of `hidden` random units of an
    image."""
    visible = grid[0] * grid[1] - unit**2 * hidden
    ids = np.empty((len(keys), visible), np.int64)
    _draw(keys, grid, unit, hidden, ids)
    return ids


@njit(nogil=True, cache=True)
def _draw(keys, grid, unit, hidden, ids):
    across, total = grid[1] // unit, grid[0] // unit * (grid[1] // unit)
    noise, shown = np.empty(total, np.uint64), np.empty(total, np.bool_)
    for i in range(len(keys)):
        for place in range(total):
            noise[place] = bits(keys[i], place)
        lowest(noise, total - hidden, shown)
        found = 0
        for row in range(grid[0]):
            for column in range(grid[1]):
                if shown[row // unit * across + column // unit]:
                    ids[i, found] = row * grid[1] + column
                    found += 1
