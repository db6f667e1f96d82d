"""Corrupt by blur: defocus, glass, motion, zoom, Gaussian. Functions (image, level, key) as `noise` describes them."""

import numpy as np
from numba import njit

from pipeline.evaluation.corruptions.filters import correlate, disk, gaussian, line, zoom
from pipeline.evaluation.corruptions.noise import to_float, uniforms

MOTION_DEGREES = 45  # either way of the horizontal


def gaussian_blur(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """Blur by a Gaussian of sigma `level` pixels. Faithful."""
    return gaussian(to_float(image), level)


def defocus_blur(image: np.ndarray, level: tuple[float, float], key: np.ndarray) -> np.ndarray:
    """Blur by a disk of (radius, softness of its rim). Faithful, but for the rim's outermost pixel at radius 8."""
    return correlate(to_float(image), disk(*level), "reflect")


def glass_blur(image: np.ndarray, level: tuple[float, int, int], key: np.ndarray) -> np.ndarray:
    """Blur by sigma, replace each pixel by one up to `reach` away, so many `times`, and blur again.

    Faithful to the data sets: the paper describes an exchange of pixels; in their code the second half of the exchange
    reads the result of the first, so that one pixel is copied.
    """
    sigma, reach, times = level
    pixels = to_u8(gaussian(to_float(image), sigma))
    rows, columns = (max(0, n - 2 * reach) for n in image.shape[:2])
    moves = (uniforms(key, (times, rows, columns, 2)) * (2 * reach)).astype(np.int64) - reach
    _scatter(pixels, moves, reach)
    return gaussian(to_float(pixels), sigma)


@njit(nogil=True, cache=True)
def _scatter(pixels, moves, reach):
    for turn in range(moves.shape[0]):
        for i in range(moves.shape[1]):
            for j in range(moves.shape[2]):
                y, x = pixels.shape[0] - reach - i, pixels.shape[1] - reach - j
                for c in range(pixels.shape[2]):
                    pixels[y, x, c] = pixels[y + moves[turn, i, j, 1], x + moves[turn, i, j, 0], c]


def motion_blur(image: np.ndarray, level: tuple[int, float], key: np.ndarray) -> np.ndarray:
    """Blur by (radius, sigma) along a line of up to 45 degrees. The kernel has ImageMagick's taps, rounded once."""
    degrees = MOTION_DEGREES * (2 * uniforms(key, (1,))[0] - 1)
    return correlate(to_float(image), line(*level, degrees), "edge")


def zoom_blur(image: np.ndarray, level: tuple[float, float], key: np.ndarray) -> np.ndarray:
    """Average the image and its zooms from 1 to level[0], in steps of level[1]. Faithful."""
    pixels, factors = to_float(image), np.arange(1, *level)
    return (pixels + sum(zoom(pixels, factor) for factor in factors)) / np.float32(len(factors) + 1)


def to_u8(pixels: np.ndarray) -> np.ndarray:
    """Convert f32, where 1 is white, -> u8, truncated as in the data sets; 1e-3 of a level is added, so that a whole
    level that rounding has made a little less is kept."""
    return (np.clip(pixels, 0, 1) * np.float32(255) + np.float32(1e-3)).astype(np.uint8)
