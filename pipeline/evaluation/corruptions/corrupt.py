"""Corrupt an image by a corruption's name and severity, in the same way on every machine, thread and batch."""

from types import MappingProxyType
from typing import Literal

import numpy as np

from pipeline import rng
from pipeline.errors import InputError
from pipeline.evaluation.corruptions import blur, digital, noise, weather
from pipeline.evaluation.corruptions.levels import CIFAR, IMAGENET, SMALL, Levels

Table = Literal["auto", "imagenet", "cifar"]

NAMES = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
EXTRA = ("speckle_noise", "gaussian_blur", "saturate")  # validation corruptions; spatter, the fourth, is left out
SEVERITIES = (1, 2, 3, 4, 5)
FILE_QUALITY = 85  # of the data set's JPEG files

_OF = MappingProxyType({name: getattr(family, name) for family, names in (
    (noise, (*NAMES[:3], "speckle_noise")), (blur, (*NAMES[3:7], "gaussian_blur")), (weather, NAMES[7:11]),
    (digital, (*NAMES[11:], "saturate")),
) for name in names})  # fmt: skip
_TAG = {name: tag for tag, name in enumerate((*NAMES, *EXTRA))}  # once given, a tag keeps its meaning


def corrupt(image: np.ndarray, name: str, severity: int, image_id: int, seed: int = 0, table: Table = "auto",
            as_file: bool = False) -> np.ndarray:  # fmt: skip
    """Return a corrupted copy of an image u8 [H, W, 3].

    Every random choice is a function of (seed, image_id, name, severity). `as_file` compresses by JPEG of quality 85,
    as ImageNet-C's files are, which makes errors under noise a little smaller.
    Raises InputError for an unknown name or severity, and for another kind of array.
    """
    check(image, name, severity)
    key = rng.derive(rng.keys(seed, 0, np.array([image_id]), rng.CORRUPT), 8 * _TAG[name] + severity)
    made = _OF[name](image, levels(image.shape, table)[name][severity - 1], key)
    made = made if made.dtype == np.uint8 else blur.to_u8(made)
    return digital.jpeg_compression(made, FILE_QUALITY, None) if as_file else made


def levels(shape: tuple[int, ...], table: Table) -> Levels:
    """Return the numbers of `table`; auto takes CIFAR-10-C's for images of up to 64 pixels a side."""
    small = max(shape[:2]) <= SMALL
    return {"auto": CIFAR if small else IMAGENET, "imagenet": IMAGENET, "cifar": CIFAR}[table]


def check(image: np.ndarray, name: str, severity: int) -> None:
    """Raise InputError for a name, severity or image that `corrupt` does not take."""
    if name not in _OF:
        raise InputError(f"no corruption is called {name!r}; there are {', '.join(_OF)}")
    if severity not in SEVERITIES:
        raise InputError(f"expected a severity from 1 to 5, got {severity}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"expected an image u8 [H, W, 3], got {image.dtype} {list(image.shape)}")
