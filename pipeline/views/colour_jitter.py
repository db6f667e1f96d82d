"""Draw colour jitter (torchvision's ColorJitter) as operations that the executors of RandAugment carry out.

ops = draw(keys, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)     # Ops of 4 operations
"""

import numpy as np
from numba import njit

from pipeline.errors import InputError
from pipeline.rng_numba import derive, uniform
from pipeline.views.rand_augment import BRIGHTNESS, COLOUR, CONTRAST, HUE, IDENTITY, Ops

_TAG = 0xC01A
_KINDS = BRIGHTNESS, CONTRAST, COLOUR, HUE


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
    ops, args = np.empty((len(keys), 4), np.int8), np.empty((len(keys), 4), np.float32)
    strengths = float(brightness), float(contrast), float(saturation)  # of one type, whatever was written
    _draw(keys, strengths, float(hue), float(probability), ops, args)
    return Ops(ops, args)


@njit(nogil=True, cache=True)
def _draw(keys, strengths, hue, probability, ops, args):
    order = np.empty(4)
    for i in range(len(keys)):
        key = derive(keys[i], _TAG)
        applied = uniform(key, 8) < probability
        for k in range(4):
            order[k] = uniform(key, 4 + k)
        for k in range(4):
            place = 0  # of operation k: so many come before it
            for other in range(4):
                place += order[other] < order[k] or (order[other] == order[k] and other < k)
            if k < 3:
                low = max(0.0, 1 - strengths[k])
                arg, used = low + (1 + strengths[k] - low) * uniform(key, k), strengths[k] > 0
            else:
                arg, used = hue * (2 * uniform(key, 3) - 1), hue > 0
            used = used and applied
            ops[i, place], args[i, place] = _KINDS[k] if used else IDENTITY, arg if used else 0.0
