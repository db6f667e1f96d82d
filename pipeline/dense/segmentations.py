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


def moved(polygons: list[np.ndarray], scale: tuple[float, float], shift: tuple[float, float]) -> list[np.ndarray]:
    """Scale polygons by factors of x and y, then shift them: f64 [2k] each."""
    return [(each.reshape(-1, 2) * scale + shift).ravel() for each in polygons]
