"""Weather: snow, frost, fog, brightness. (image, level, key) as in `noise`."""

import numpy as np

from pipeline import rng
from pipeline.evaluation.corruptions.blur import as_levels
from pipeline.evaluation.corruptions.filters import correlate, line, zoom
from pipeline.evaluation.corruptions.noise import bells, evens, unit

GREY = np.array([0.299, 0.587, 0.114], np.float32)
ICE = np.array([0.82, 0.93, 1.0], np.float32)
NEEDLES = 6  # directions of frost's crystals, 30 degrees apart
_FLAKES, _ANGLE, _MIST, _SEEDS = range(1, 5)  # tags


def snow(image: np.ndarray, level: tuple[float, ...], key: np.ndarray) -> np.ndarray:
    """(mean, spread, zoom, threshold, radius, sigma, share): flakes of thresholded noise, zoomed and blown from above,
    over a whitened image. Faithful, with `motion_blur`'s kernel."""
    mean, spread, factor, threshold, radius, sigma, share = level
    flakes = np.float32(mean) + np.float32(spread) * bells(rng.derive(key, _FLAKES), (*image.shape[:2], 1))
    flakes = zoom(flakes, factor)
    flakes[flakes < threshold] = 0
    degrees = -135 + 90 * evens(rng.derive(key, _ANGLE), (1,))[0]
    flakes = unit(as_levels(correlate(unit(as_levels(flakes)), line(int(radius), sigma, degrees), "edge")))
    pixels = unit(image)
    white = np.maximum(pixels, (pixels @ GREY)[..., None] * np.float32(1.5) + np.float32(0.5))
    share = np.float32(share)
    return share * pixels + (1 - share) * white + flakes + flakes[::-1, ::-1]


def frost(image: np.ndarray, level: tuple[float, float], key: np.ndarray) -> np.ndarray:
    """(share of the image, share of the frost).

    NOT FAITHFUL: ImageNet-C lays photographs of frost over the image, which cannot be shipped; this is a drawn texture
    of crystals, of about a photograph's brightness. Errors under frost compare runs with each other, not with papers.
    """
    return np.float32(level[0]) * unit(image) + np.float32(level[1]) * crystals(image.shape[0], image.shape[1], key)


def crystals(height: int, width: int, key: np.ndarray) -> np.ndarray:
    """Needles of ice in six directions, dense where a cloud is: f32 [H, W, 3]."""
    side = max(height, width)
    cloud = plasma(height, width, 1.6, rng.derive(key, _MIST))[..., None]
    turned, *_ = evens(rng.derive(key, _ANGLE), (1,))
    seeds = evens(rng.derive(key, _SEEDS), (NEEDLES, height, width, 1))
    ice = np.zeros((height, width, 1), np.float32)
    for i in range(NEEDLES):
        grains = np.where(seeds[i] < 0.012, np.float32(1), np.float32(0))
        needle = line(max(2, side // 14), max(1, side / 16), 30 * (i + turned) + 180 * (i % 2))
        ice = np.maximum(ice, correlate(grains, needle, "edge"))
    ice = np.minimum(1, ice * np.float32(side / 9))
    return (np.float32(0.12) + np.float32(0.45) * cloud + np.float32(0.75) * ice * cloud) * ICE


def fog(image: np.ndarray, level: tuple[float, float], key: np.ndarray) -> np.ndarray:
    """(thickness, how much smaller finer mist is): a plasma fractal on top, then dimmed. Faithful."""
    pixels, thickness = unit(image), np.float32(level[0])
    brightest = pixels.max()
    mist = plasma(*image.shape[:2], level[1], key)[..., None]
    return (pixels + thickness * mist) * brightest / (brightest + thickness)


def plasma(height: int, width: int, decay: float, key: np.ndarray) -> np.ndarray:
    """Diamond-square heights from 0 to 1 over a torus that holds the image: f32 [H, W].

    A point is the mean of its four neighbours and noise, whose spread falls by decay² each time that the grid halves.
    """
    side = 1 << (max(height, width, 2) - 1).bit_length()
    heights, noise = np.zeros((side, side)), 2 * evens(key, (side, side)) - 1
    step, spread = side, 1.0
    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        middle = _four(corners, np.roll(corners, -1, 0), np.roll(corners, -1, 1), np.roll(corners, -1, (0, 1)))
        heights[half::step, half::step] = middle = middle + spread * noise[half::step, half::step]
        above = _four(corners, np.roll(corners, -1, 1), middle, np.roll(middle, 1, 0))
        heights[::step, half::step] = above + spread * noise[::step, half::step]
        beside = _four(corners, np.roll(corners, -1, 0), middle, np.roll(middle, 1, 1))
        heights[half::step, ::step] = beside + spread * noise[half::step, ::step]
        step, spread = half, spread / decay**2
    heights -= heights.min()
    return (heights / heights.max())[:height, :width].astype(np.float32)


def _four(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    return (a + b + c + d) / 4


def brightness(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """HSV's value raised by `level`: hue and saturation stay, so every channel grows by one factor. Faithful."""
    pixels = unit(image)
    value = pixels.max(2, keepdims=True)
    raised = np.minimum(1, value + np.float32(level))
    return np.where(value > 0, pixels * (raised / np.maximum(value, np.float32(1e-6))), raised)
