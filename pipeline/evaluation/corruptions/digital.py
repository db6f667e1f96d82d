"""Corrupt digitally: contrast, elastic, pixelate, JPEG, saturate. Functions (image, level, key) as `noise`
describes."""

import io

import numpy as np
from PIL import Image

from pipeline import rng
from pipeline.evaluation.corruptions.filters import gaussian, sample
from pipeline.evaluation.corruptions.noise import to_float, uniforms

_CORNERS, _DOWN, _ACROSS = range(1, 4)  # tags


def contrast(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """Shrink each channel's distances from its mean to the share `level`. Faithful."""
    pixels = to_float(image)
    means = pixels.mean((0, 1), dtype=np.float64, keepdims=True).astype(np.float32)
    return (pixels - means) * np.float32(level) + means


def elastic_transform(image: np.ndarray, level: tuple[float, float, float], key: np.ndarray) -> np.ndarray:
    """Warp by a random affine map of three corners, then by a smooth random field: level is (strength, smoothness,
    corners), in sides.

    Faithful, with exact instead of 1/32-pixel weights in the affine map.
    """
    side = min(image.shape[:2]) * (244 / 224 if min(image.shape[:2]) > 64 else 1)
    strength, smooth, corners = (share * side for share in level)
    pixels = affine(to_float(image), corners, rng.derive(key, _CORNERS))
    rows, columns = np.indices(image.shape[:2], np.float32)
    down, across = (
        strength
        * gaussian(2 * uniforms(rng.derive(key, tag), (*image.shape[:2], 1)) - 1, smooth, 3, "symmetric")[..., 0]
        for tag in (_DOWN, _ACROSS)
    )
    return sample(pixels, rows + down, columns + across, "symmetric")


def affine(pixels: np.ndarray, corners: float, key: np.ndarray) -> np.ndarray:
    """Warp an image (f32) so that three points around its middle, a third of the side away, each move by up to
    `corners` pixels."""
    middle, away = np.array(pixels.shape[:2])[::-1] // 2, min(pixels.shape[:2]) // 3
    before = middle + away * np.array([[1, 1], [1, -1], [-1, -1]])
    after = before + corners * (2 * uniforms(key, (3, 2)) - 1)
    back = np.linalg.solve(np.column_stack([after, np.ones(3)]), before)  # [x', y', 1] · back = [x, y]
    rows, columns = np.indices(pixels.shape[:2])
    x, y = (columns * back[0, i] + rows * back[1, i] + back[2, i] for i in (0, 1))
    return sample(pixels, y, x, "reflect")


def pixelate(image: np.ndarray, level: float, key: np.ndarray) -> np.ndarray:
    """Shrink to the share `level` of each side by Pillow's box filter, and enlarge again. Faithful."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize(
        (max(1, int(width * level)), max(1, int(height * level))), Image.Resampling.BOX
    )
    return np.asarray(small.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(image: np.ndarray, level: int, key: np.ndarray | None) -> np.ndarray:
    """Compress and decompress by Pillow's JPEG of quality `level`. Faithful."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=level)
    return np.asarray(Image.open(file))


def saturate(image: np.ndarray, level: tuple[float, float], key: np.ndarray) -> np.ndarray:
    """Multiply HSV's saturation by level[0] and add level[1]; grey has hue 0, and so turns red. Faithful."""
    pixels = to_float(image)
    value = pixels.max(2, keepdims=True)
    below = value - pixels  # of each channel; the largest is value · saturation
    chroma = below.max(2, keepdims=True)
    tone = np.divide(below, chroma, out=np.zeros_like(below), where=chroma > 0)
    tone = np.where(chroma > 0, tone, np.array([0, 1, 1], np.float32))
    saturation = np.divide(chroma, value, out=np.zeros_like(chroma), where=value > 0)
    return value - value * tone * np.clip(saturation * np.float32(level[0]) + np.float32(level[1]), 0, 1)
