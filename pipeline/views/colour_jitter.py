"""Draw colour jitter (torchvision's ColorJitter) as operations that the executors of RandAugment carry out.

ops = draw(keys, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)     # Ops of 4 operations
"""

import numpy as np

from pipeline import rng
from pipeline.errors import InputError
from pipeline.views.rand_augment import BRIGHTNESS, COLOUR, CONTRAST, HUE, IDENTITY, Ops

_TAG = 0xC01A


def draw(
    keys: np.ndarray,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
    probability: float = 0.8,
) -> Ops:
    """Draw four operations in random order for N images from their keys (u64 [N]); all identity with 1 - probability.

    brightness, contrast, saturation  x >= 0: factor uniform in max(0, 1 - x)..1 + x; 0 leaves it out
    hue                               0..0.5 of a turn: uniform in -hue..hue; 0 leaves it out
    The defaults are those of BYOL's Table 6 and MoCo v3.

    Raises InputError for a strength out of range.
    """
    for name, value, limit in (
        ("brightness", brightness, np.inf), ("contrast", contrast, np.inf), ("saturation", saturation, np.inf),
        ("hue", hue, 0.5), ("probability", probability, 1),
    ):  # fmt: skip
        if not 0 <= value <= limit:
            raise InputError(f"colour jitter: {name} must be in 0..{limit}, got {value}")
    numbers = rng.uniforms(rng.derive(keys, _TAG), 9)
    strengths = np.array([brightness, contrast, saturation])
    low = np.maximum(0, 1 - strengths)
    args = np.concatenate([low + (1 + strengths - low) * numbers[:, :3], hue * (2 * numbers[:, 3:4] - 1)], axis=1)
    kinds = np.where([*(strengths > 0), hue > 0], [BRIGHTNESS, CONTRAST, COLOUR, HUE], IDENTITY)
    applied = (numbers[:, 8:] < probability) & (kinds > 0)
    order = np.argsort(numbers[:, 4:8], axis=1, kind="stable")
    ops = np.take_along_axis(np.where(applied, kinds, IDENTITY), order, 1)
    return Ops(ops.astype(np.int8), np.take_along_axis(np.where(applied, args, 0), order, 1).astype(np.float32))
