"""Noise: Gaussian, shot, impulse, speckle. The laws are ImageNet-C's; the draws are ours (pipeline.rng).

Everywhere in this folder: image u8 [H, W, 3]; level is a row's entry in `levels`; key u64 [1]; the result f32
[H, W, 3], 1 is white, still to be clipped, or u8.
"""

from functools import lru_cache

import numpy as np

from pipeline import rng

_HIT, _SALT = 1, 2  # tags


def unit(image: np.ndarray) -> np.ndarray:
    """u8 -> f32, 1 is white."""
    return image * np.float32(1 / 255)


def bells(key: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normals f32."""
    return rng.normals(key, int(np.prod(shape)))[0].reshape(shape).astype(np.float32)


def evens(key: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers in [0, 1): f64."""
    return rng.uniforms(key, int(np.prod(shape)))[0].reshape(shape)


def gaussian_noise(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """Every value moved by N(0, level²). Faithful."""
    return unit(image) + np.float32(level) * bells(key, image.shape)


def speckle_noise(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """Noise in proportion to the value, N(0, level²) of it. Faithful."""
    return unit(image) * (1 + np.float32(level) * bells(key, image.shape))


def shot_noise(image: np.ndarray, level: int, key: np.ndarray) -> np.ndarray:
    """Photons: white is `level` of them on average, and each value a Poisson count. Faithful."""
    table, most = _counts(level)
    places = np.searchsorted(table, image + evens(key, image.shape), side="right")
    return ((places - image.astype(np.int64) * most) / np.float32(level)).astype(np.float32)


@lru_cache(maxsize=16)
def _counts(level: int) -> tuple[np.ndarray, int]:
    """Of each of the 256 values, one after the other: value + P(count <= k), k = 0..most-1; so one search is all."""
    most = int(level + 10 * level**0.5 + 20)
    rates = np.arange(256)[:, None] * (level / 255)
    with np.errstate(divide="ignore"):
        logs = np.log(rates) * np.maximum(1, np.arange(most))
    factorials = np.concatenate([[0], np.cumsum(np.log(np.arange(1, most)))])
    logs[:, 0] = 0
    chances = np.cumsum(np.exp(logs - rates - factorials), axis=1)
    return (np.arange(256)[:, None] + np.minimum(chances, 1)).ravel(), most


def impulse_noise(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """Salt and pepper: a share `level` of all values, each channel for itself, becomes 0 or 1. Faithful."""
    hit = evens(rng.derive(key, _HIT), image.shape) < level
    salt = evens(rng.derive(key, _SALT), image.shape) < 0.5
    return np.where(hit, np.where(salt, np.uint8(255), np.uint8(0)), image)
