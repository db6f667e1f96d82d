"""Masks as COCO's run lengths (RLE), down the columns, which pycocotools makes: {"size": [h, w], "counts": bytes}.

(rle,) = encode(masks)     # of bool [1, h, w]; pipeline.dense.segmentations.drawn draws it again
json.dumps(as_json(rle))
"""

from typing import Any

import numpy as np

from pipeline.dense.segmentations import coco_masks


def encode(masks: np.ndarray) -> list[dict[str, Any]]:
    """Encode masks bool [k, h, w], an RLE each: `encode(masks)[0]["size"]` is [h, w]."""
    if not len(masks):
        return []
    return coco_masks().encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))


def as_json(rle: dict[str, Any]) -> dict[str, Any]:
    """Return an RLE as JSON holds it, its runs as text: `json.dumps(as_json(rle))`."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}
