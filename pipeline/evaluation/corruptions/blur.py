"""Blurs: defocus, glass, motion, zoom, Gaussian. (image, level, key) as in `noise`."""

import numpy as np
from numba import njit

from pipeline.evaluation.corruptions.filters import correlate, disk, gaussian, line, zoom
from pipeline.evaluation.corruptions.noise import evens, unit

MOTION_DEGREES = 45  # either way of the horizontal


def gaussian_blur(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """Sigma `level` pixels. Faithful."""
    return gaussian(unit(image), level)


def defocus_blur(image: np.ndarray, level: tuple[float, float], key: np.ndarray) -> np.ndarray:
    """A disk of (radius, softness of its rim). Faithful, but for the rim's outermost pixel at radius 8."""
    return correlate(unit(image), disk(*level), "reflect")


def glass_blur(image: np.ndarray, level: tuple[float, int, int], key: np.ndarray) -> np.ndarray:
    """(sigma, reach, times): blurred, pixels taken from up to `reach` away, so many times, blurred again.

    Faithful to the data sets: the paper speaks of exchanging pixels, but their code, whose two halves of a swap see
    each other's result, copies one.
    """
    sigma, reach, times = level
    pixels = as_levels(gaussian(unit(image), sigma))
    rows, columns = (max(0, n - 2 * reach) for n in image.shape[:2])
    moves = (evens(key, (times, rows, columns, 2)) * (2 * reach)).astype(np.int64) - reach
    _scatter(pixels, moves, reach)
    return gaussian(unit(pixels), sigma)


@njit(nogil=True, cache=True)
def _scatter(pixels, moves, reach):
    for turn in range(moves.shape[0]):
        for i in range(moves.shape[1]):
            for j in range(moves.shape[2]):
                y, x = pixels.shape[0] - reach - i, pixels.shape[1] - reach - j
                for c in range(pixels.shape[2]):
                    pixels[y, x, c] = pixels[y + moves[turn, i, j, 1], x + moves[turn, i, j, 0], c]


def motion_blur(image: np.ndarray, level: tuple[int, float], key: np.ndarray) -> np.ndarray:
    """(radius, sigma) along up to 45 degrees. Our rendering of ImageMagick's kernel: the same taps, rounded once."""
    degrees = MOTION_DEGREES * (2 * evens(key, (1,))[0] - 1)
    return correlate(unit(image), line(*level, degrees), "edge")


def zoom_blur(image: np.ndarray, level: tuple[float, float], key: np.ndarray) -> np.ndarray:
    """The mean of the image and its zooms at 1 to (most, in steps of). Faithful."""
    pixels, factors = unit(image), np.arange(1, *level)
    return (pixels + sum(zoom(pixels, factor) for factor in factors)) / np.float32(len(factors) + 1)


def as_levels(pixels: np.ndarray) -> np.ndarray:
    """f32, 1 is white -> u8, cut off as in the data sets; 1e-3 of a level keeps what rounding has just missed."""
    return (np.clip(pixels, 0, 1) * np.float32(255) + np.float32(1e-3)).astype(np.uint8)
