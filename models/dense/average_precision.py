"""Average precision of detections as COCO measures it, by pycocotools: over ten IoUs, at two of them, for three sizes.

records = [record(0, (480, 640), objects, found)]      # an image each, of any rank
scores = average_precision(records, classes=80, masks=False)
scores.values["box_ap"], scores.classes["box_ap"][0]    # 0.371, 0.52
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np

from models.dense.mask_rcnn import Found
from models.dense.rle import encode
from pipeline.dense.boxes import Objects
from pipeline.dense.segmentations import coco_masks, rle

KINDS = {"box": "bbox", "mask": "segm"}
"""What is compared, by COCO's names."""
AT_50, AT_75 = 0, 5
"""Places of IoU 0.5 and 0.75 among COCO's ten, 0.5 to 0.95."""
SIZES = "small", "medium", "large"
"""Objects below 32^2 pixels, below 96^2, and the others: places 1 to 3 of COCO's ranges of areas, of which 0 is all."""
DETECTIONS = 100
"""How many an image are judged, the likeliest of each class."""
OF_CLASSES = "ap", "ap50"
"""Values that each class has, too."""


class Record(NamedTuple):
    """What one image's detections are judged by, which ranks can send each other.

    image       its id, equal on all ranks
    side        height and width
    truths      COCO's annotations, without ids
    detections  of the same kind, with a score
    """

    image: int
    side: tuple[int, int]
    truths: list[dict[str, Any]]
    detections: list[dict[str, Any]]


class Scores(NamedTuple):
    """Average precision over the classes by name, and of each class; not a number where there is no such object."""

    values: dict[str, float]
    classes: dict[str, list[float]]


def names_of(masks: bool) -> tuple[str, ...]:
    """List the names of the values: box_ap, box_ap50, box_ap75, box_ap_small, ..., and those of masks likewise."""
    kinds = [kind for kind in KINDS if masks or kind == "box"]
    return tuple(f"{kind}_{each}" for kind in kinds for each in ("ap", "ap50", "ap75", *(f"ap_{s}" for s in SIZES)))


def record(image: int, side: tuple[int, int], objects: Objects, found: Found) -> Record:
    """Keep what an image's detections, which are on the host, are judged by; masks are encoded here."""
    truths = annotations(objects.boxes, objects.classes)
    for truth, ignored, area in zip(truths, objects.ignored.tolist(), objects.areas.tolist(), strict=True):
        truth |= {"iscrowd": int(ignored), "area": area}
    listed = annotations(found.boxes.numpy(), found.classes.numpy())
    for each, score in zip(listed, found.scores.tolist(), strict=True):
        each["score"] = score
    if found.masks is not None:
        assert objects.masks is not None  # of a set whose masks are learned
        runs = [*(rle(each, *side) for each in objects.masks), *encode(found.masks.numpy())]
        for annotation, each in zip([*truths, *listed], runs, strict=True):
            annotation["segmentation"] = each
    return Record(image, side, truths, listed)


def annotations(boxes: np.ndarray, classes: np.ndarray) -> list[dict[str, Any]]:
    """Write boxes f32 [m, 4] (two corners) and classes i64 [m] as COCO does: left, top, width, height; ids from 1."""
    corners = boxes.astype(np.float64)
    assert (corners[:, 2:] >= corners[:, :2]).all()  # COCO's code would ignore a negative area in silence
    sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    pairs = zip(sizes.tolist(), (classes + 1).tolist(), strict=True)
    return [{"bbox": box, "category_id": number, "area": box[2] * box[3], "iscrowd": 0} for box, number in pairs]


def average_precision(records: Sequence[Record], classes: int, masks: bool) -> Scores:
    """Compute the average precision of boxes, and of masks where `masks`, as COCO's own code does.

    Precision at 101 recalls, the highest at that recall or beyond, is averaged over them, over the classes that have
    an object, and over the IoUs; at most 100 detections an image. An object that is to be ignored counts neither as
    found nor as missed, nor do detections of which it holds most, as COCO's crowds. A detection's size is that of its
    mask where masks are judged.
    """
    values: dict[str, float] = {}
    of_classes: dict[str, list[float]] = {}
    for kind in (kind for kind in KINDS if masks or kind == "box"):
        precision = _precision(records, classes, kind)
        levels = precision[..., 0], precision[AT_50, ..., 0], precision[AT_75, ..., 0]
        each = [*levels, *(precision[..., 1 + place] for place in range(len(SIZES)))]
        names = (name for name in names_of(masks) if name.startswith(f"{kind}_"))
        values |= {name: _mean(part) for name, part in zip(names, each, strict=True)}
        for name, part in zip(OF_CLASSES, levels, strict=False):
            of_classes[f"{kind}_{name}"] = [_mean(part[..., number]) for number in range(classes)]
    return Scores(values, of_classes)


def _precision(records: Sequence[Record], classes: int, kind: str) -> np.ndarray:
    """Precision at each IoU, recall, class and range of areas, f64 [10, 101, classes, 4]; -1 without an object."""
    mask = coco_masks()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [{"id": each.image, "height": each.side[0], "width": each.side[1]} for each in records]
    shared = {"images": images, "categories": [{"id": number + 1} for number in range(classes)]}
    with redirect_stdout(io.StringIO()):  # it prints what it does
        sides = []
        for part in ("truths", "detections"):
            held = [each | {"image_id": record.image} for record in records for each in getattr(record, part)]
            for number, each in enumerate(held, 1):  # to COCOeval an object with id 0 is never found
                each["id"] = number
                if kind == "mask" and part == "detections":
                    each["area"] = float(mask.area(each["segmentation"]))
            sides.append(COCO())
            sides[-1].dataset = shared | {"annotations": held}
            sides[-1].createIndex()
        judge = COCOeval(*sides, KINDS[kind])
        judge.params.maxDets = [DETECTIONS]  # 1 and 10, which give recalls, are not read
        judge.evaluate()
        judge.accumulate()
    held: dict[str, Any] = judge.eval
    return held["precision"][..., -1]


def _mean(precision: np.ndarray) -> float:
    held = precision[precision > -1]
    return float(held.mean()) if held.size else float("nan")
