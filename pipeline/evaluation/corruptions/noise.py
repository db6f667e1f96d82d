"""Corrupt by noise: Gaussian, shot, impulse, speckle. Distributions are ImageNet-C's, random numbers are
pipeline.rng's.

Every corruption is a function (image, level, key): image u8 [H, W, 3]; level, what `levels` has for one severity; key
u64 [1]. It returns f32 [H, W, 3], where 1 is white and values may lie outside 0..1, or u8. "Faithful" says that it does
what the data set's published code does, but for the random numbers.
"""

from functools import lru_cache

import numpy as np

from pipeline import rng

_HIT, _SALT = 1, 2  # tags


def to_float(image: np.ndarray) -> np.ndarray:
    """Convert u8 -> f32, where 1 is white."""
    return image * np.float32(1 / 255)


def normals(key: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Draw standard normals f32."""
    return rng.normals(key, int(np.prod(shape)))[0].reshape(shape).astype(np.float32)


def uniforms(key: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Draw uniform numbers in [0, 1): f64."""
    return rng.uniforms(key, int(np.prod(shape)))[0].reshape(shape)


def gaussian_noise(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """Add N(0, level²) to every value. Faithful."""
    return to_float(image) + np.float32(level) * normals(key, image.shape)


def speckle_noise(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """Add noise in proportion to the value, N(0, level²) of it. Faithful."""
    return to_float(image) * (1 + np.float32(level) * normals(key, image.shape))


def shot_noise(image: np.ndarray, level: int, key: np.ndarray) -> np.ndarray:
    """Count photons: white is `level` of them on average, and each value a Poisson count. Faithful."""
    table, most = _counts(level)
    places = np.searchsorted(table, image + uniforms(key, image.shape), side="right")
    return ((places - image.astype(np.int64) * most) / np.float32(level)).astype(np.float32)


@lru_cache(maxsize=16)
def _counts(level: int) -> tuple[np.ndarray, int]:
    """Tabulate for each of the 256 values in turn value + P(count <= k), k = 0..most-1, so that one search finds the
    count of every pixel; and return `most`."""
    most = int(level + 10 * level**0.5 + 20)
    rates = np.arange(256)[:, None] * (level / 255)
    with np.errstate(divide="ignore"):
        logs = np.log(rates) * np.maximum(1, np.arange(most))
    factorials = np.concatenate([[0], np.cumsum(np.log(np.arange(1, most)))])
    logs[:, 0] = 0
    chances = np.cumsum(np.exp(logs - rates - factorials), axis=1)
    return (np.arange(256)[:, None] + np.minimum(chances, 1)).ravel(), most


def impulse_noise(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """Set a share `level` of all values, each channel by itself, to black or white (salt and pepper). Faithful."""
    hit = uniforms(rng.derive(key, _HIT), image.shape) < level
    salt = uniforms(rng.derive(key, _SALT), image.shape) < 0.5
    return np.where(hit, np.where(salt, np.uint8(255), np.uint8(0)), image)
