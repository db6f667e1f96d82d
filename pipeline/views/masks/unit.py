"""Masking in units of several patches (SimMIM: Xie et al. 2022): a unit is hidden or visible as a whole."""

import numpy as np

from pipeline import rng
from pipeline.errors import InputError
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
    across, total = grid[1] // unit, grid[0] // unit * (grid[1] // unit)
    visible = total - hidden
    noise = rng.uniforms(keys, total)
    units = np.argpartition(noise, visible - 1, axis=1)[:, :visible]
    first = units // across * (unit * grid[1]) + units % across * unit  # upper left patch
    inside = (np.arange(unit)[:, None] * grid[1] + np.arange(unit)).ravel()
    return np.sort((first[:, :, None] + inside).reshape(len(keys), -1), axis=1)
