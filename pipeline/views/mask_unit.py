"""Masking in units of several patches (SimMIM: Xie et al. 2022): a unit is hidden or visible as a whole."""

import numpy as np

from pipeline import rng
from pipeline.errors import InputError


def hidden_units(ratio: float, unit: int, grid: int) -> int:
    """SimMIM's count, ceil(ratio · U) of the U = (grid / unit)² units; InputError where units do not fill the grid."""
    if unit < 1 or grid % unit:
        raise InputError(
            f"units of {unit} x {unit} patches do not fill a grid of {grid} x {grid}; choose another data.mask.unit"
        )
    return int(np.ceil(ratio * (grid // unit) ** 2 - 1e-9))  # 0.6 of 25 is 15, not 16


def draw(keys: np.ndarray, grid: int, unit: int, hidden: int) -> np.ndarray:
    """Ids of the visible patches, i64 [N, K], ascending: all but those of `hidden` random units of each image."""
    across = grid // unit
    visible = across * across - hidden
    noise = rng.uniforms(keys, across * across)
    units = np.argpartition(noise, visible - 1, axis=1)[:, :visible]
    first = units // across * (unit * grid) + units % across * unit  # upper left patch
    inside = (np.arange(unit)[:, None] * grid + np.arange(unit)).ravel()
    return np.sort((first[:, :, None] + inside).reshape(len(keys), -1), axis=1)
