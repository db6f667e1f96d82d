"""Draw the objects that a run finds in image files over each, and write all of them in COCO's format.

draw_detections(loaded, paths, Path("predictions"), batch=4, score=0.3)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from models.dense.average_precision import annotations
from models.dense.box_drawing import draw_objects
from models.dense.drawing import png
from models.dense.mask_rcnn import Found
from models.dense.rle import as_json, encode
from models.evaluate.box_pictures import likely_drawing
from models.evaluate.dense_pictures import shown
from models.evaluate.dense_predictions import Drawn
from models.full_precision import full_precision
from models.load import Loaded
from models.methods.detect import Detect
from pipeline.dense.decoding import read_image
from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole
from pipeline.store.sample_names import escape

BOXES, FILE = "-boxes.png", "detections.json"


def draw_detections(loaded: Loaded, paths: Sequence[Path], out: Path, batch: int, score: float) -> Drawn:
    """Write NAME-boxes.png for each image into a folder, and detections.json: images, categories, and as annotations
    all that was found, with scores.

    batch  images that go through the network at once
    score  what is less likely is not drawn; the JSON has it, too

    Raises InputError for two images of one name, whose pictures would replace each other.
    """
    method, rejected = loaded.method, []
    assert isinstance(method, Detect)
    names = [path.stem for path in paths]
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise InputError(f"two images are called {twice[0]}, and each makes {twice[0]}{BOXES}; predict them apart")
    images: list[dict[str, Any]] = []
    listed: list[dict[str, Any]] = []
    for first in range(0, len(paths), batch):
        read: list[tuple[Path, Tensor]] = []
        for path in paths[first : first + batch]:
            try:
                read.append((path, read_image(path)))
            except InputError as error:
                rejected.append((path, str(error).removeprefix(f"{path}: ")))
        if not read:
            continue
        with full_precision(next(method.parameters()).device):
            found = method.predict([image for _, image in read])
        out.mkdir(parents=True, exist_ok=True)
        for (path, image), each in zip(read, found, strict=True):
            picture = draw_objects(likely_drawing(shown(image), each, score), loaded.classes)
            write_whole(out / f"{path.stem}{BOXES}", png(Image.fromarray(picture)))
            height, width = image.shape[1:]
            images.append({"id": len(images) + 1, "file_name": escape(str(path)), "height": height, "width": width})
            listed += detections(each, len(images))
    if images:
        for number, each in enumerate(listed, 1):
            each["id"] = number
        categories = [{"id": number, "name": name} for number, name in enumerate(loaded.classes, 1)]
        held = {"images": images, "annotations": listed, "categories": categories}
        write_whole(out / FILE, json.dumps(held, separators=(",", ":")) + "\n")
    return Drawn(len(images), rejected)


def detections(found: Found, image: int) -> list[dict[str, Any]]:
    """Write what was found in an image as COCO's results, {image_id, category_id, bbox, score, ...}, and of masks their
    RLE and area."""
    listed = annotations(found.boxes.numpy(), found.classes.numpy())
    for each, score in zip(listed, found.scores.tolist(), strict=True):
        each |= {"image_id": image, "score": score}
    if found.masks is not None:
        areas = found.masks.sum((1, 2)).tolist()
        for each, rle, area in zip(listed, encode(found.masks.numpy()), areas, strict=True):
            each |= {"segmentation": as_json(rle), "area": area}
    return listed
