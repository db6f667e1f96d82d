"""Draw which rectangle of an image is erased: USB's cutout and timm's random erasing, as boxes, on the host.

A box is i32 (top, left, height, width); height 0 erases nothing. Executors fill it with one colour, or with noise that
is a function of the image's key and the pixel alone, in the same integers in numba, torch and Triton.

    boxes = draw_erasing(keys, size=(224, 224))     # i32 [N, 4]
"""

import math

import numpy as np
from numba import njit

from pipeline import rng
from pipeline.rng_numba import derive, uniform

CUTOUT_FILL = (125, 123, 114)  # USB's randaugment.py, CutoutAbs
_CUTOUT, _ERASING, NOISE = 0xC07, 0xE7A5E, 0x4015E  # tags

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
    boxes = np.empty((len(keys), 4), np.int32)
    _draw_cutout(keys, size, largest, boxes)
    return boxes


@njit(nogil=True, cache=True)
def _draw_cutout(keys, size, largest, boxes):
    for i in range(len(keys)):
        key = derive(keys[i], _CUTOUT)
        side = uniform(key, 0) * largest * size[1]
        for axis in range(2):
            length = size[axis]
            near = math.floor(max(0.0, 1 + (length - 1) * uniform(key, 1 + axis) - side / 2))
            extent = min(math.floor(near + side), length - 1) - near + 1
            boxes[i, axis], boxes[i, 2 + axis] = (near, extent) if side > 0 else (0, 0)


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
    boxes = np.zeros((len(keys), 4), np.int32)
    _draw_erasing(keys, size, probability, area, (math.log(aspect[0]), math.log(aspect[1])), boxes)
    return boxes


@njit(nogil=True, cache=True)
def _draw_erasing(keys, size, probability, area, log_aspect, boxes):
    for i in range(len(keys)):
        key = derive(keys[i], _ERASING)
        if uniform(key, 0) >= probability:
            continue
        for k in range(1, 41, 4):
            pixels = (area[0] + (area[1] - area[0]) * uniform(key, k)) * size[0] * size[1]
            ratio = math.exp(log_aspect[0] + (log_aspect[1] - log_aspect[0]) * uniform(key, k + 1))
            height, width = np.rint(math.sqrt(pixels * ratio)), np.rint(math.sqrt(pixels / ratio))
            if height < size[0] and width < size[1]:
                boxes[i, 0] = math.floor(uniform(key, k + 2) * (size[0] - height + 1))
                boxes[i, 1] = math.floor(uniform(key, k + 3) * (size[1] - width + 1))
                boxes[i, 2], boxes[i, 3] = height, width
                break


def noise_keys(keys: np.ndarray) -> np.ndarray:
    """Derive the keys u64 [N] of the images' noise."""
    return rng.derive(keys, NOISE)
