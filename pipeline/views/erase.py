"""Draw which rectangle of an image is erased: USB's cutout and timm's random erasing, as boxes, on the host.

A box is i32 (top, left, height, width); height 0 erases nothing. Executors fill it with one colour, or with noise that
is a function of the image's key and the pixel alone, in the same integers in numba, torch and Triton.

    boxes = draw_erasing(keys, size=(224, 224))     # i32 [N, 4]
"""

import math

import numpy as np

from pipeline import rng

CUTOUT_FILL = (125, 123, 114)  # USB's randaugment.py, CutoutAbs
_CUTOUT, _ERASING, _NOISE = 0xC07, 0xE7A5E, 0x4015E  # tags

# Noise: N(0, 1) after normalisation is mean + std · z in levels. Here z is the sum of three 7-bit uniforms (a standard
# deviation of 64 steps), in 16-bit fixed point. It ends at 2.98 standard deviations; u8 clips the true normal at 1.8 to
# 2.6 of them anyway.
STEP = tuple(round(255 * std / math.sqrt(3 * (128**2 - 1) / 12) * 65536) for std in (0.229, 0.224, 0.225))
BASE = tuple(
    round((255 * mean + 0.5) * 65536 - 190.5 * step) for mean, step in zip((0.485, 0.456, 0.406), STEP, strict=True)
)


def draw_cutout(keys: np.ndarray, size: tuple[int, int], largest: float = 0.5) -> np.ndarray:
    """Draw USB's cutout, which is always applied: boxes i32 [N, 4] for images of `size` (height, width), from keys
    u64 [N]. They are squares of side U(0, largest) of the width, cut off at the border.

    As in USB, the centre is uniform over 1..height and 1..width, the far edge is counted from the clipped near edge,
    and the last row and column are included.
    """
    side, top, left = rng.uniforms(rng.derive(keys, _CUTOUT), 3).T
    side = side * largest * size[1]
    near = [np.floor(np.maximum(0, 1 + (n - 1) * u - side / 2)) for n, u in zip(size, (top, left), strict=True)]
    extent = [np.minimum(np.floor(at + side), n - 1) - at + 1 for n, at in zip(size, near, strict=True)]
    boxes = np.stack([*near, *extent], axis=1).astype(np.int32)
    return np.where(side[:, None] > 0, boxes, 0).astype(np.int32)


def draw_erasing(
    keys: np.ndarray,
    size: tuple[int, int],
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> np.ndarray:
    """Draw timm's RandomErasing with one box: boxes i32 [N, 4] for images of `size` (height, width), from keys
    u64 [N].

    Area (a fraction) is uniform, aspect (height / width) log-uniform; of ten attempts the first that fits is taken.
    """
    numbers = rng.uniforms(rng.derive(keys, _ERASING), 41)
    applied, attempts = numbers[:, 0] < probability, numbers[:, 1:].reshape(-1, 10, 4)
    pixels = (area[0] + (area[1] - area[0]) * attempts[..., 0]) * size[0] * size[1]
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = np.exp(low + (high - low) * attempts[..., 1])
    height, width = np.rint(np.sqrt(pixels * ratio)), np.rint(np.sqrt(pixels / ratio))
    top, left = (np.floor(attempts[..., 2 + i] * (size[i] - side + 1)) for i, side in enumerate((height, width)))
    fits = (height < size[0]) & (width < size[1])
    first = np.argmax(fits, axis=1)[:, None, None]
    boxes = np.take_along_axis(np.stack([top, left, height, width], axis=-1), first, 1)[:, 0]
    return np.where((applied & fits.any(1))[:, None], boxes, 0).astype(np.int32)


def noise_keys(keys: np.ndarray) -> np.ndarray:
    """Derive the keys u64 [N] of the images' noise."""
    return rng.derive(keys, _NOISE)
