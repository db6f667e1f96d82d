"""Masking in units of several patches (SimMIM: Xie et al. 2022): a unit is hidden or visible as a whole."""

import numpy as np

from pipeline import rng
from pipeline.errors import InputError
from pipeline.spec import Mask
from pipeline.views.masks import checked


def hidden_units(ratio: float, unit: int, grid: int) -> int:
    """Count the hidden units as SimMIM does, ceil(ratio · U) of the U = (grid / unit)² units.

    Raises InputError where units do not fill the grid.
    """
    if unit < 1 or grid % unit:
        raise InputError(
            f"units of {unit} x {unit} patches do not fill a grid of {grid} x {grid}; choose another data.mask.unit"
        )
    return int(np.ceil(ratio * (grid // unit) ** 2 - 1e-9))  # 0.6 of 25 is 15, not 16


def visible_count(mask: Mask, grid: int) -> int:
    """Count the visible patches: all but those of SimMIM's hidden units."""
    total = grid * grid
    return checked(mask, total - mask.unit**2 * hidden_units(mask.ratio, mask.unit, grid), total)


def draw(mask: Mask, keys: np.ndarray, grid: int) -> tuple[np.ndarray, None]:
    """Draw the visible patches of N images: keys u64 [N] -> ids i64 [N, K], ascending."""
    hidden = (grid * grid - visible_count(mask, grid)) // mask.unit**2
    return unit_mask(keys, grid, mask.unit, hidden), None


def unit_mask(keys: np.ndarray, grid: int, unit: int, hidden: int) -> np.ndarray:
    """Draw the ids of the visible patches, i64 [N, K], ascending: all but those of `hidden` random units of an
    image."""
    across = grid // unit
    visible = across * across - hidden
    noise = rng.uniforms(keys, across * across)
    units = np.argpartition(noise, visible - 1, axis=1)[:, :visible]
    first = units // across * (unit * grid) + units % across * unit  # upper left patch
    inside = (np.arange(unit)[:, None] * grid + np.arange(unit)).ravel()
    return np.sort((first[:, :, None] + inside).reshape(len(keys), -1), axis=1)
