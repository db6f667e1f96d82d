"""Corrupt by weather: snow, frost, fog, brightness. Functions (image, level, key) as `noise` describes them."""

import numpy as np

from pipeline import rng
from pipeline.evaluation.corruptions.blur import to_u8
from pipeline.evaluation.corruptions.filters import correlate, line, zoom
from pipeline.evaluation.corruptions.noise import normals, to_float, uniforms

GREY = np.array([0.299, 0.587, 0.114], np.float32)
ICE = np.array([0.82, 0.93, 1.0], np.float32)
NEEDLES = 6  # directions of frost's crystals, 30 degrees apart
_FLAKES, _ANGLE, _MIST, _SEEDS = range(1, 5)  # tags


def snow(image: np.ndarray, level: tuple[float, ...], key: np.ndarray) -> np.ndarray:
    """Lay flakes, which are thresholded noise, zoomed and motion-blurred from above, over a whitened image.

    level  (mean, spread, zoom, threshold, radius, sigma, share)
    Faithful, with the kernel of `motion_blur`.
    """
    mean, spread, factor, threshold, radius, sigma, share = level
    flakes = np.float32(mean) + np.float32(spread) * normals(rng.derive(key, _FLAKES), (*image.shape[:2], 1))
    flakes = zoom(flakes, factor)
    flakes[flakes < threshold] = 0
    degrees = -135 + 90 * uniforms(rng.derive(key, _ANGLE), (1,))[0]
    flakes = to_float(to_u8(correlate(to_float(to_u8(flakes)), line(int(radius), sigma, degrees), "edge")))
    pixels = to_float(image)
    white = np.maximum(pixels, (pixels @ GREY)[..., None] * np.float32(1.5) + np.float32(0.5))
    share = np.float32(share)
    return share * pixels + (1 - share) * white + flakes + flakes[::-1, ::-1]


def frost(image: np.ndarray, level: tuple[float, float], key: np.ndarray) -> np.ndarray:
    """Lay frost over the image: level is (share of the image, share of the frost).

    NOT FAITHFUL: ImageNet-C lays photographs of frost over the image, which cannot be shipped; this is a drawn texture
    of crystals, of about a photograph's brightness. Errors under frost compare runs with each other, not with papers.
    """
    return np.float32(level[0]) * to_float(image) + np.float32(level[1]) * crystals(image.shape[0], image.shape[1], key)


def crystals(height: int, width: int, key: np.ndarray) -> np.ndarray:
    """Draw needles of ice in six directions, dense where a cloud is: f32 [H, W, 3]."""
    side = max(height, width)
    cloud = plasma(height, width, 1.6, rng.derive(key, _MIST))[..., None]
    turned, *_ = uniforms(rng.derive(key, _ANGLE), (1,))
    seeds = uniforms(rng.derive(key, _SEEDS), (NEEDLES, height, width, 1))
    ice = np.zeros((height, width, 1), np.float32)
    for i in range(NEEDLES):
        grains = np.where(seeds[i] < 0.012, np.float32(1), np.float32(0))
        needle = line(max(2, side // 14), max(1, side / 16), 30 * (i + turned) + 180 * (i % 2))
        ice = np.maximum(ice, correlate(grains, needle, "edge"))
    ice = np.minimum(1, ice * np.float32(side / 9))
    return (np.float32(0.12) + np.float32(0.45) * cloud + np.float32(0.75) * ice * cloud) * ICE


def fog(image: np.ndarray, level: tuple[float, float], key: np.ndarray) -> np.ndarray:
    """Add a plasma fractal, then dim: level is (thickness, how much smaller finer mist is). Faithful."""
    pixels, thickness = to_float(image), np.float32(level[0])
    brightest = pixels.max()
    mist = plasma(*image.shape[:2], level[1], key)[..., None]
    return (pixels + thickness * mist) * brightest / (brightest + thickness)


def plasma(height: int, width: int, decay: float, key: np.ndarray) -> np.ndarray:
    """Compute diamond-square heights from 0 to 1 over a torus that holds the image: f32 [H, W].

    A point is the mean of its four neighbours plus noise, whose spread falls by decay² each time that the grid halves.
    """
    side = 1 << (max(height, width, 2) - 1).bit_length()
    heights, noise = np.zeros((side, side)), 2 * uniforms(key, (side, side)) - 1
    step, spread = side, 1.0
    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        middle = _mean_of_four(corners, np.roll(corners, -1, 0), np.roll(corners, -1, 1), np.roll(corners, -1, (0, 1)))
        heights[half::step, half::step] = middle = middle + spread * noise[half::step, half::step]
        above = _mean_of_four(corners, np.roll(corners, -1, 1), middle, np.roll(middle, 1, 0))
        heights[::step, half::step] = above + spread * noise[::step, half::step]
        beside = _mean_of_four(corners, np.roll(corners, -1, 0), middle, np.roll(middle, 1, 1))
        heights[half::step, ::step] = beside + spread * noise[half::step, ::step]
        step, spread = half, spread / decay**2
    heights -= heights.min()
    return (heights / heights.max())[:height, :width].astype(np.float32)


def _mean_of_four(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    return (a + b + c + d) / 4


def brightness(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """Raise HSV's value by `level`: hue and saturation stay, so every channel grows by one factor. Faithful."""
    pixels = to_float(image)
    value = pixels.max(2, keepdims=True)
    raised = np.minimum(1, value + np.float32(level))
    return np.where(value > 0, pixels * (raised / np.maximum(value, np.float32(1e-6))), raised)
