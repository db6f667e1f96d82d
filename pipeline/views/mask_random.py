"""Uniform random masking: each image keeps its own random patches (MAE section 3, "Masking")."""

import numpy as np

from pipeline import rng


def draw(keys: np.ndarray, grid: int, visible: int) -> np.ndarray:
    """Ids of the visible patches, i64 [N, visible], ascending: those with the lowest random numbers."""
    noise = rng.uniforms(keys, grid * grid)
    return np.sort(np.argpartition(noise, visible - 1, axis=1)[:, :visible], axis=1)
