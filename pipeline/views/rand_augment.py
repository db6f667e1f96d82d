"""Draw which operations of RandAugment, with which arguments, each image gets.

"RandAugment" names three different things in the codebases that Semi-MAE is compared with; each is a preset here that
draws (operation, argument) pairs. An argument is in the unit of its operation, so the executors know no preset.

    ops = draw("usb", keys, size=(224, 224))     # ops.ops i8 [N, 3], ops.args f32 [N, 3]
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline import rng
from pipeline.errors import InputError

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
_USB = (
    (AUTOCONTRAST, 0, 0), (BRIGHTNESS, 0.05, 0.95), (COLOUR, 0.05, 0.95), (CONTRAST, 0.05, 0.95), (EQUALIZE, 0, 0),
    (IDENTITY, 0, 0), (POSTERIZE, 4, 8), (ROTATE, -30, 30), (SHARPNESS, 0.05, 0.95), (SHEAR_X, -0.3, 0.3),
    (SHEAR_Y, -0.3, 0.3), (SOLARIZE, 0, 256), (TRANSLATE_X, -0.3, 0.3), (TRANSLATE_Y, -0.3, 0.3),
)  # fmt: skip
_USB_TABLE = np.array(_USB).T
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
    numbers = rng.uniforms(rng.derive(keys, _TAG), layers * _SLOTS).reshape(len(keys), layers, _SLOTS)
    if preset == "usb":
        ops, args = _draw_usb(numbers)
    elif preset == "timm":
        ops, args = _draw_timm(numbers, rng.normals(rng.derive(keys, _TAG + 1), layers))
    else:
        ops, args = _draw_torchvision(numbers, size)
    return Ops(ops.astype(np.int8), args.astype(np.float32))


def _choose(numbers: np.ndarray, n: int) -> np.ndarray:
    return (numbers * n).astype(np.int64)


def _draw_usb(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    op, low, high = _USB_TABLE[:, _choose(numbers[..., 0], len(_USB))]
    args = low + (high - low) * numbers[..., 1]
    return op, np.where(op == POSTERIZE, np.floor(args), args)


def _draw_timm(numbers: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    op = np.array(_TIMM)[_choose(numbers[..., 0], len(_TIMM))]
    level = np.clip(9 + 0.5 * noise, 0, 10) / 10
    signed = np.where(numbers[..., 2] < 0.5, level, -level)
    by_op = np.zeros((len(NAMES), *op.shape))
    by_op[ROTATE] = signed * 30
    by_op[[SHEAR_X, SHEAR_Y]] = signed * 0.3
    by_op[[TRANSLATE_X, TRANSLATE_Y]] = signed * 0.45
    by_op[[COLOUR, CONTRAST, BRIGHTNESS, SHARPNESS]] = np.maximum(0.1, 1 + signed * 0.9)
    by_op[POSTERIZE] = 4 - np.floor(level * 4)
    by_op[SOLARIZE] = 256 - np.floor(level * 256)
    by_op[SOLARIZE_ADD] = np.floor(level * 110)
    applied = numbers[..., 3] < 0.5
    return np.where(applied, op, IDENTITY), np.where(applied, _pick(by_op, op), 0)


def _draw_torchvision(numbers: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    op = np.array(_TORCHVISION)[_choose(numbers[..., 0], len(_TORCHVISION))]
    level = 9 / 30  # bin 9 of 31
    sign = np.where(numbers[..., 2] < 0.5, 1.0, -1.0)
    by_op = np.zeros((len(NAMES), *op.shape))
    by_op[ROTATE] = sign * 30 * level
    by_op[[SHEAR_X, SHEAR_Y]] = sign * 0.3 * level
    for moved, side in zip((TRANSLATE_Y, TRANSLATE_X), size, strict=True):
        by_op[moved] = sign * int(150 / 331 * side * level) / side  # whole pixels
    by_op[[COLOUR, CONTRAST, BRIGHTNESS, SHARPNESS]] = 1 + sign * 0.9 * level
    by_op[POSTERIZE] = 8 - round(level * 4)
    by_op[SOLARIZE] = 255 - 255 * level
    return op, _pick(by_op, op)


def _pick(by_op: np.ndarray, op: np.ndarray) -> np.ndarray:
    return np.take_along_axis(by_op, op[None].astype(np.int64), 0)[0]
