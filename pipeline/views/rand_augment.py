"""Draw which operations of RandAugment, with which arguments, each image gets.

"RandAugment" names three different things in the codebases that Semi-MAE is compared with; each is a preset here that
draws (operation, argument) pairs. An argument is in the unit of its operation, so the executors know no preset.

    ops = draw("usb", keys, size=(224, 224))     # ops.ops i8 [N, 3], ops.args f32 [N, 3]
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit

from pipeline.errors import InputError
from pipeline.rng_numba import derive, normal, uniform

NAMES = (
    "identity", "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "colour",
    "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y", "hue",
)  # fmt: skip
(IDENTITY, AUTOCONTRAST, EQUALIZE, INVERT, ROTATE, POSTERIZE, SOLARIZE, SOLARIZE_ADD, COLOUR,
 CONTRAST, BRIGHTNESS, SHARPNESS, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, HUE) = range(17)  # fmt: skip
GEOMETRY = (ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y)

PresetName = Literal["usb", "timm", "torchvision"]
_TAG = 0x52A9D  # derives this view's own numbers from an image's key
_SLOTS = 8  # counters per layer: op, argument, sign, skip, and four that no preset uses


@dataclass(frozen=True)
class Ops:
    """The L operations of each of N images, in order.

    ops   i8  [N, L]   ids as in NAMES; 0 is identity
    args  f32 [N, L]   rotate: degrees counter-clockwise; shear_*: factor; translate_*: fraction of the width or height
                       (positive: left or up); posterize: bits kept, 0..8; solarize: threshold 0..256;
                       solarize_add: levels added below 128; colour, contrast, brightness, sharpness: factor, 1 changes
                       nothing; hue: -0.5..0.5 of a turn; 0 for the others
    """

    ops: np.ndarray
    args: np.ndarray


@dataclass(frozen=True)
class Sampling:
    """How geometry reads between pixels (nearest or bilinear) and what it fills in beyond the border (RGB)."""

    nearest: bool
    fill: tuple[int, int, int]


SAMPLING: dict[PresetName, Sampling] = {
    "usb": Sampling(nearest=True, fill=(0, 0, 0)),  # PIL's defaults, which USB's randaugment.py leaves alone
    "timm": Sampling(nearest=False, fill=(124, 116, 104)),  # transforms_factory.py: img_mean, rounded to u8
    "torchvision": Sampling(nearest=True, fill=(0, 0, 0)),  # RandAugment(interpolation=NEAREST, fill=None)
}

# USB (semilearn/datasets/augmentation/randaugment.py, augment_list): values uniform in their range, magnitude unused
_USB = np.array([
    (AUTOCONTRAST, 0, 0), (BRIGHTNESS, 0.05, 0.95), (COLOUR, 0.05, 0.95), (CONTRAST, 0.05, 0.95), (EQUALIZE, 0, 0),
    (IDENTITY, 0, 0), (POSTERIZE, 4, 8), (ROTATE, -30, 30), (SHARPNESS, 0.05, 0.95), (SHEAR_X, -0.3, 0.3),
    (SHEAR_Y, -0.3, 0.3), (SOLARIZE, 0, 256), (TRANSLATE_X, -0.3, 0.3), (TRANSLATE_Y, -0.3, 0.3),
])  # fmt: skip
# timm (timm/data/auto_augment.py, _RAND_INCREASING_TRANSFORMS), in its order
_TIMM = (
    AUTOCONTRAST, EQUALIZE, INVERT, ROTATE, POSTERIZE, SOLARIZE, SOLARIZE_ADD, COLOUR, CONTRAST, BRIGHTNESS,
    SHARPNESS, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y,
)  # fmt: skip
# torchvision (transforms/autoaugment.py, RandAugment._augmentation_space), in its order
_TORCHVISION = (
    IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTNESS, COLOUR, CONTRAST, SHARPNESS, POSTERIZE,
    SOLARIZE, AUTOCONTRAST, EQUALIZE,
)  # fmt: skip


def draw(preset: PresetName, keys: np.ndarray, size: tuple[int, int], layers: int | None = None) -> Ops:
    """Draw the operations of N images of `size` (height, width) from their keys (u64 [N], see pipeline.rng).

    usb          3 of 14 operations, each uniform over its range (USB's ImageNet: RandAugment(3, 10)); USB ends with a
                 cutout, which the plan adds (pipeline.views.erase)
    timm         rand-m9-mstd0.5-inc1: 2 of 15, each applied half the time, magnitude N(9, 0.5) clipped to 0..10. Here
                 geometry is always bilinear; timm takes bilinear or bicubic. Magnitude 10 posterizes to 0 bits, that is
                 to black, as in timm before Pillow refused it.
    torchvision  RandAugment(num_ops=2, magnitude=9, num_magnitude_bins=31)
    layers       number of operations, where it is not to be the preset's own

    Raises InputError for an unknown preset.
    """
    own_layers = {"usb": 3, "timm": 2, "torchvision": 2}
    if preset not in own_layers:
        raise InputError(f"RandAugment preset must be one of {', '.join(own_layers)}, got {preset!r}")
    layers = own_layers[preset] if layers is None else layers
    drawn = Ops(np.empty((len(keys), layers), np.int8), np.empty((len(keys), layers), np.float32))
    if preset == "usb":
        _draw_usb(keys, drawn.ops, drawn.args)
    elif preset == "timm":
        _draw_timm(keys, drawn.ops, drawn.args)
    else:
        _draw_torchvision(keys, _torchvision_args(size), drawn.ops, drawn.args)
    return drawn


@njit(nogil=True, cache=True)
def _draw_usb(keys, ops, args):
    for i in range(len(keys)):
        key = derive(keys[i], _TAG)
        for layer in range(ops.shape[1]):
            first = layer * _SLOTS
            op, low, high = _USB[int(uniform(key, first) * len(_USB))]
            arg = low + (high - low) * uniform(key, first + 1)
            ops[i, layer], args[i, layer] = op, math.floor(arg) if op == POSTERIZE else arg


@njit(nogil=True, cache=True)
def _draw_timm(keys, ops, args):
    for i in range(len(keys)):
        key, noise_key = derive(keys[i], _TAG), derive(keys[i], _TAG + 1)
        for layer in range(ops.shape[1]):
            first = layer * _SLOTS
            ops[i, layer] = args[i, layer] = 0
            if uniform(key, first + 3) < 0.5:
                op = _TIMM[int(uniform(key, first) * len(_TIMM))]
                level = min(max(9 + 0.5 * normal(noise_key, layer), 0), 10) / 10
                sign = 1 if uniform(key, first + 2) < 0.5 else -1
                ops[i, layer], args[i, layer] = op, _timm_arg(op, level, sign * level)


@njit(nogil=True, cache=True)
def _timm_arg(op, level, signed):
    if op == ROTATE:
        return signed * 30
    if op in (SHEAR_X, SHEAR_Y):
        return signed * 0.3
    if op in (TRANSLATE_X, TRANSLATE_Y):
        return signed * 0.45
    if op in (COLOUR, CONTRAST, BRIGHTNESS, SHARPNESS):
        return max(0.1, 1 + signed * 0.9)
    if op == POSTERIZE:
        return 4.0 - math.floor(level * 4)
    if op == SOLARIZE:
        return 256.0 - math.floor(level * 256)
    if op == SOLARIZE_ADD:
        return 1.0 * math.floor(level * 110)
    return 0.0


def _torchvision_args(size: tuple[int, int]) -> np.ndarray:
    """Compute the argument of each operation, in row 0 where its sign is positive and in row 1 where it is negative:
    f64 [2, operations]."""
    level = 9 / 30  # bin 9 of 31
    sign = np.array([1.0, -1.0])
    args = np.zeros((len(NAMES), 2))
    args[ROTATE] = sign * 30 * level
    args[[SHEAR_X, SHEAR_Y]] = sign * 0.3 * level
    for moved, side in zip((TRANSLATE_Y, TRANSLATE_X), size, strict=True):
        args[moved] = sign * int(150 / 331 * side * level) / side  # whole pixels
    args[[COLOUR, CONTRAST, BRIGHTNESS, SHARPNESS]] = 1 + sign * 0.9 * level
    args[POSTERIZE] = 8 - round(level * 4)
    args[SOLARIZE] = 255 - 255 * level
    return args.T.copy()


@njit(nogil=True, cache=True)
def _draw_torchvision(keys, signed_args, ops, args):
    for i in range(len(keys)):
        key = derive(keys[i], _TAG)
        for layer in range(ops.shape[1]):
            first = layer * _SLOTS
            op = _TORCHVISION[int(uniform(key, first) * len(_TORCHVISION))]
            ops[i, layer] = op
            args[i, layer] = signed_args[0 if uniform(key, first + 2) < 0.5 else 1, op]
