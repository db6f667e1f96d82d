"""The pixels of an object from its polygons or RLE, by pycocotools, which is imported where a mask is first drawn.

mask = drawn(segmentation, 480, 640)     # bool [480, 640]
"""

from types import ModuleType

import numpy as np

from pipeline.dense.annotations import Segmentation
from pipeline.errors import InputError


def coco_masks() -> ModuleType:
    """Import pycocotools.mask. Raises InputError, with what to install, where it is absent."""
    try:
        from pycocotools import mask  # here, because only runs of detection need it
    except ImportError as error:
        raise InputError(
            'detection needs pycocotools, which is not installed; pip install pycocotools, or the extra "dense"'
        ) from error
    return mask


def rle(segmentation: Segmentation, height: int, width: int) -> dict:
    """Encode an object's pixels as compressed RLE, {"size": [height, width], "counts": bytes}."""
    masks = coco_masks()
    if not isinstance(segmentation, dict):
        return masks.merge(masks.frPyObjects([each.tolist() for each in segmentation], height, width))
    return masks.frPyObjects(segmentation, height, width) if isinstance(segmentation["counts"], list) else segmentation


def drawn(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Draw an object's pixels: bool [height, width]."""
    return coco_masks().decode(rle(segmentation, height, width)).astype(bool)


def is_empty(segmentation: Segmentation, height: int, width: int) -> bool:
    """Say whether an object has no pixel in its image: runs of zeros, or polygons between the pixels' centres."""
    return not coco_masks().area(rle(segmentation, height, width))


def moved(polygons: list[np.ndarray], scale: tuple[float, float], shift: tuple[float, float]) -> list[np.ndarray]:
    """Scale polygons by factors of x and y, then shift them: f64 [2k] each."""
    return [(each.reshape(-1, 2) * scale + shift).ravel() for each in polygons]


def extent(segmentation: Segmentation) -> tuple[float, float, float, float]:
    """Compute the left, top, right and lower edge of an object's pixels; all 0 where it has none."""
    if not isinstance(segmentation, dict):
        points = np.concatenate([each.reshape(-1, 2) for each in segmentation])
        (left, top), (right, low) = points.min(0), points.max(0)
        return float(left), float(top), float(right), float(low)
    left, top, width, height = coco_masks().toBbox(rle(segmentation, *segmentation["size"])).tolist()
    return left, top, left + width, top + height


def run_lengths(counts: str) -> list[int]:
    """Read the run lengths of compressed RLE. Raises ValueError for a string that is none.

    A number is written in groups of 5 bits, the lowest first, as a character from "0"; 32 says that more follow. From
    the fourth on numbers are differences to the one before the last, with a sign.
    """
    runs: list[int] = []
    number = bits = 0
    for character in counts:
        group = ord(character) - ord("0")
        if not 0 <= group < 64:
            raise ValueError(f"holds {character!r}")
        number |= (group & 31) << bits
        bits += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << bits
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = bits = 0
    if bits:
        raise ValueError("ends within a number")
    return runs
