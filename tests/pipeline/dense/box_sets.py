"""Small sets of boxes that tests share: the same three images and objects as COCO's JSON, VOC's XML and YOLO's text."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.dense.boxes import open_boxes
from pipeline.spec import BoxLabels, Data

JSON = "annotations/instances_train.json"
NAMES = ("cat", "dog")
OBJECTS = {"a": [("dog", (4, 2, 20, 12)), ("cat", (30, 10, 40, 30))], "b": [("cat", (0, 0, 16, 8))], "c": []}
"""Left, top, right and lower edge in images of 40 x 30 pixels."""
FORMATS = "coco", "voc", "yolo"


def polygon(box):
    left, top, right, low = box
    return [left, top, right, top, right, low, left, low]


def coco(objects=OBJECTS, **changes) -> dict:
    """COCO's JSON of the objects; a keyword replaces one of its lists."""
    numbers = {name: 7 + 10 * place for place, name in enumerate(NAMES)}
    images = [{"id": 100 + n, "file_name": f"{stem}.png", "width": 40, "height": 30} for n, stem in enumerate(objects)]
    annotations = [
        {
            "id": 10 * n + k, "image_id": 100 + n, "category_id": numbers[name], "iscrowd": 0, "area": 50.5,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "segmentation": [polygon(box)],
        }
        for n, each in enumerate(objects.values()) for k, (name, box) in enumerate(each)
    ]  # fmt: skip
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories} | changes


def xml(objects, sides=(30, 40), extra="") -> str:
    size = f"<size><width>{sides[1]}</width><height>{sides[0]}</height><depth>3</depth></size>"
    found = [
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in objects
    ]
    return f"<annotation>{size}{''.join(found)}</annotation>"


def yolo(objects) -> str:
    return "".join(
        f"{NAMES.index(name)} {(x + right) / 80} {(y + low) / 60} {(right - x) / 40} {(low - y) / 30}\n"
        for name, (x, y, right, low) in objects
    )


def write_set(tmp_path: Path) -> Path:
    """Three images and their objects in each of the formats."""
    (tmp_path / "images/train").mkdir(parents=True)
    for folder in ("annotations", "voc", "yolo"):
        (tmp_path / folder).mkdir()
    for number, (stem, objects) in enumerate(OBJECTS.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images/train" / f"{stem}.png")
        (tmp_path / "voc" / f"{stem}.xml").write_text(xml(objects))
        if objects:
            (tmp_path / "yolo" / f"{stem}.txt").write_text(yolo(objects))
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(coco()))
    return tmp_path


LABELS = {
    "coco": BoxLabels(),
    "voc": BoxLabels(boxes="voc"),
    "yolo": BoxLabels(boxes="yolo", names=NAMES),
    "masks": BoxLabels(masks=True),
}


def opened(root, labels=LABELS["coco"], name="train"):
    return open_boxes(Data(root=str(root), train="train", threads=1), labels, name)
