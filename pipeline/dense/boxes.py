"""Open a set of images with boxes around objects, check every one of them, and read an image and its objects.

found = open_boxes(data, labels, data.train)     # COCO's JSON, VOC's XML or YOLO's text; see BoxLabels
found.objects[0].boxes                           # f32 [m, 4]
image = found.read(0)                            # u8 [3, H, W]

What is wrong is said before training, in one line with the file's name: every annotation is read, of an image the
header, and all of one that ends too early. Pixels are as stored: a turn that a photograph's EXIF asks for is not made.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from torchvision import tv_tensors

from pipeline.concurrency.cores import decode_threads
from pipeline.concurrency.threads import Threads
from pipeline.dense.annotations import Annotated, Annotations, Segmentation
from pipeline.dense.coco import CocoFile
from pipeline.dense.decoding import check_end, header_of, read_image
from pipeline.dense.images import (
    LIST,
    check_different,
    classes_note,
    composed_names,
    files_below,
    images_of,
    read_classes,
    repeated_notes,
)
from pipeline.dense.segmentations import coco_masks, extent, is_empty
from pipeline.dense.voc import VocFolder, YoloFolder, is_yolo
from pipeline.errors import InputError
from pipeline.spec import BoxLabels, Data
from pipeline.text import count, some

BEYOND = 1.0
"""Pixels by which a box may reach beyond its image, as rounding and counting from 0 or 1 make them; it is cut."""

ON_ITS_SIDE = 5
"""The first of EXIF's turns that swap height and width."""
ENDINGS, YAML = (".xml", ".txt"), (".yaml", ".yml")
ODD = {
    "no area": ("left out of {where}: {n} without an area: {places}", "box", "boxes"),
    "cut": ("cut to the image in {where}: {n}, up to a pixel beyond it: {places}", "box", "boxes"),
    "mask": ("cut to the image in {where}: {n}, more than a pixel beyond it: {places}", "mask"),
    "no pixel": ("without a pixel in {where}: {n}, judged but never learned: {places}", "mask"),
    "rotated": ("rotated in {where}: {n}, of which the box before the turn is used: {places}", "object"),
    "area": ("an area that is no positive number in {where}: {n}, of which the box's is used: {places}", "object"),
    "turned": ("turned by EXIF in {where}: {n}, whose boxes are taken to be of the pixels as stored, not as viewers "
               "show them: {places}", "image"),
    "empty": ("without an object in {where}: {n}: {places}", "image"),
}  # fmt: skip
"""What is said of each kind of what is odd and no error, and what is counted."""


Box = tuple[float, float, float, float]
"""Left, top, right and lower edge in pixels."""


class Objects(NamedTuple):
    """The m objects of an image.

    boxes    f32 [m, 4]   left, top, right and lower edge in pixels; the image's left upper corner is at 0, 0
    classes  i64 [m]      from 0
    ignored  bool [m]     neither learned nor judged (COCO's crowds, VOC's difficult objects)
    areas    f32 [m]      as the file has them (COCO: of the mask), else of the box
    masks    of each object polygons or RLE (pipeline.dense.segmentations); None where the set has none
    """

    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray
    areas: np.ndarray
    masks: tuple[Segmentation, ...] | None


class _Checked(NamedTuple):
    """An image as it was checked: what it holds, its sides, its part of the digest, and what is odd, by kind."""

    objects: Objects
    sides: tuple[int, int]
    digest: bytes
    odd: dict[str, list[str]]


@final
@dataclass(frozen=True, eq=False)
class BoxSet:
    """The images of a set, each with its objects.

    path     the set, as messages name it
    names    of the images below their folder, without ending, in alphabetical order: an image's id is its place
    images   their files
    sides    i64 [n, 2]  height and width of each
    objects  of each image
    classes  names in the order of their numbers
    counts   i64 [C]  objects of each class, those that are ignored left out
    digest   of the annotations, of the images' names, sizes in bytes and sides, and of how boxes are read; runs are
             resumed on the same alone. Pixels are not part of it, as COCO's have 19 GB
    odd      lines about what is odd and no error
    """

    path: Path
    names: tuple[str, ...]
    images: tuple[Path, ...]
    sides: np.ndarray
    objects: tuple[Objects, ...]
    classes: tuple[str, ...]
    labels: BoxLabels
    counts: np.ndarray
    digest: str
    odd: tuple[str, ...]

    @property
    def n(self) -> int:
        """Count the images."""
        return len(self.images)

    def read(self, index: int) -> tv_tensors.Image:
        """Decode an image: u8 [3, H, W]. Raises InputError, naming the file, for what no longer decodes."""
        return read_image(self.images[index])

    def notes(self) -> list[str]:
        """Say, a line each, what is odd about the set and no error: files that are not used, boxes that are cut or left
        out, images without an object, classes without one."""
        empty = [name for name, boxes in zip(self.classes, self.counts, strict=True) if not boxes]
        return [*self.odd, *([f"no object of {self.path} is of class {some(empty)}"] if empty else [])]

    def with_objects(self) -> "BoxSet":
        """Leave out the images without an object that can be learned; -> the set, and a line about them in `odd`."""
        kept = [index for index, each in enumerate(self.objects) if (~each.ignored).any()]
        left = self.n - len(kept)
        line = f"left out of {self.path}: {count(left, 'image')} without an object (method.labels.empty is off)"
        return BoxSet(
            self.path, tuple(self.names[i] for i in kept), tuple(self.images[i] for i in kept), self.sides[kept],
            tuple(self.objects[i] for i in kept), self.classes, self.labels, self.counts, self.digest,
            (*self.odd, *([line] if left else [])),
        )  # fmt: skip


def open_boxes(data: Data, labels: BoxLabels, name: str) -> BoxSet:
    """Open the set called `name` (data.train, say) and check every image and object of it, by `data.threads` threads.

    Raises InputError for a folder, a list of classes, an image or its annotation that is missing, files that do not
    parse, an image of another size than its annotation says, a class beyond the list, a box outside its image, a mask
    that is missing where masks are learned, a set without a box; and where pycocotools is not installed.
    """
    coco_masks()
    root = Path(data.root)
    given = labels.names or _classes_of(root / labels.classes)
    annotations = _annotations(root, labels, name, given)
    classes = given or annotations.names()
    source = annotations.names_from
    check_different(classes, str(source))
    listed = name.endswith(LIST)
    there = composed_names(images_of(root, labels.images, name))
    images = annotations.images(there, listed=listed)
    numbers = {each: number for number, each in enumerate(classes)}
    threads = Threads(decode_threads(data.threads), "check")
    try:
        begun = [threads.submit(_check_image, annotations, *each, numbers, labels.masks) for each in images.items()]
        checked = [each.result() for each in begun]
    finally:
        threads.close()
    counts = np.zeros(len(classes), np.int64)
    for each in checked:
        np.add.at(counts, each.objects.classes[~each.objects.ignored], 1)
    odd = annotations.notes(images, listed=listed)
    if not counts.any():
        shown = "; ".join((f"expected boxes of objects, found none in {count(len(images), 'image')}", *odd))
        raise InputError(f"{annotations.path}: {shown}")
    digest = hashlib.sha256(repr((classes, labels.masks)).encode() + b"".join(each.digest for each in checked))
    found = [] if given else [classes_note(classes, source)]
    repeated = repeated_notes(root / name, there) if listed else []
    return BoxSet(
        root / name, tuple(images), tuple(images.values()), np.array([each.sides for each in checked], np.int64),
        tuple(each.objects for each in checked), classes, labels, counts, digest.hexdigest(),
        (*found, *_unused(there, images, annotations.path, root / name), *repeated, *odd, *_odd(checked, root / name)),
    )  # fmt: skip


def _classes_of(path: Path) -> tuple[str, ...]:
    if path.suffix.lower() in YAML:
        raise InputError(
            f"{path}: expected names of classes, one a line, and YAML is not read; give its names in the order of "
            "their numbers: --method.labels.names"
        )
    return read_classes(path) if path.is_file() else ()


def _unused(there: Mapping[str, Path], used: Mapping[str, Path], annotations: Path, path: Path) -> list[str]:
    """Say which images have no annotation."""
    left = [stem for stem in there if stem not in used]
    shown = f"{count(len(left), 'image')} that {annotations} does not name: {some(left)}"
    return [f"not used of {path}: {shown}"] if left else []


def _annotations(root: Path, labels: BoxLabels, name: str, classes: tuple[str, ...]) -> Annotations:
    """The file or folder of annotations of a set, by its format."""
    stem = name.removesuffix(LIST)
    places = [root / labels.boxes.replace("{set}", each) for each in (stem, Path(stem).name, "")]
    path = next((each for each in places if each.exists()), places[0])
    if path.suffix.lower() == ".json" or path.is_file():
        if not path.exists():
            jsons = [str(each.relative_to(root)) for each in sorted((*root.glob("*.json"), *root.glob("*/*.json")))]
            there = f"; there are {some(jsons)}" if jsons else ""
            raise InputError(
                f"{path}: expected COCO's JSON of boxes, found no such file; --method.labels.boxes names it{there}"
            )
        return CocoFile(path, masks=labels.masks)
    if not path.is_dir():
        raise InputError(
            f"{path}: expected COCO's JSON, or a folder of VOC's XML or YOLO's text, found nothing; "
            "--method.labels.boxes names it"
        )
    files = [each for each in files_below(path) if each.suffix.lower() in ENDINGS]
    stems = {ending: {each.stem for each in files if each.suffix.lower() == ending} for ending in ENDINGS}
    if stems[".xml"]:  # beside which a README and a list of classes are no YOLO
        stems[".txt"] = {each.stem for each in files if each.suffix.lower() == ".txt" and is_yolo(each)}
    if both := sorted(stems[".xml"] & stems[".txt"]):
        raise InputError(f"{path}: holds both {both[0]}.xml and {both[0]}.txt; keep VOC's XML and YOLO's text apart")
    if len(stems[".xml"]) >= max(1, len(stems[".txt"])):
        return VocFolder(path)
    if not stems[".txt"]:
        jsons = sorted(path.glob("*.json"))
        raise InputError(
            f"{path}: expected a folder of VOC's XML or YOLO's text, found neither"
            + (f"; a JSON is named itself: --method.labels.boxes {jsons[0].relative_to(root)}" if jsons else "")
        )
    return _yolo_folder(path, root, labels, classes)


def _yolo_folder(path: Path, root: Path, labels: BoxLabels, classes: tuple[str, ...]) -> YoloFolder:
    """YOLO's files, whose list of classes may lie among them or beside their folder, as tools write it."""
    name = Path(labels.classes).name
    beside = next((each for each in (path / name, path.parent / name) if each.is_file()), None)
    if not classes and beside is not None:
        classes = _classes_of(beside)
    if not classes:
        yaml = next((each for each in sorted(root.glob("*")) if each.suffix.lower() in YAML), None)
        raise InputError(
            f"{path}: holds YOLO's numbers of classes, whose names are expected in {root / labels.classes}, one a "
            "line, or from --method.labels.names" + (f", in the order of {yaml.name}" if yaml else "")
        )
    return YoloFolder(path, classes, beside)


def _check_image(annotations: Annotations, stem: str, path: Path, numbers: Mapping[str, int], masks: bool) -> _Checked:
    """Read an image's header and its objects, and compare them."""
    (sides, turn), said = header_of(path), annotations.sides(stem)
    check_end(path)
    if said is not None and said != sides:
        raise InputError(
            f"{path}: expected the size that {annotations.path} has for it, {said[1]} x {said[0]}, got {sides[1]} x "
            f"{sides[0]}; annotate the pixels as stored (EXIF turns them for some viewers), or mend the annotation"
        )
    odd: dict[str, list[str]] = {}
    if turn > 1 and (turn < ON_ITS_SIDE or said is None or sides[0] == sides[1]):  # no size tells what was annotated
        odd.setdefault("turned", []).append(stem)
    kept = [(each, box) for each in annotations.of(stem, sides) if (box := _box(each, sides, odd)) is not None]
    if not any(not each.ignored for each, _ in kept):
        odd.setdefault("empty", []).append(stem)
    for each, box in kept:
        if each.name not in numbers:
            known = some(list(numbers), 10)
            raise InputError(f"{each.where}: is of class {each.name}, expected one of the list: {known}")
        if masks and each.segmentation is None:
            raise InputError(f"{each.where}: has no mask; --method.labels.no-masks learns boxes alone")
        if each.segmentation is not None and masks:
            _check_mask(each, each.segmentation, box, sides, odd)
        for kind in each.odd:
            odd.setdefault(kind, []).append(each.where)
    content = hashlib.sha256(annotations.content(stem)).digest()
    digest = os.fsencode(stem) + repr((sides, path.stat().st_size)).encode() + content
    return _Checked(_joined(kept, numbers, masks), sides, hashlib.sha256(digest).digest(), odd)


def _check_mask(
    each: Annotated, mask: Segmentation, box: Box, sides: tuple[int, int], odd: dict[str, list[str]]
) -> None:
    """Compare the extent of an object's mask with its box and its image; a mask that is drawn beyond is cut."""
    left, top, right, low = edges = extent(mask)
    height, width = sides
    if left >= box[2] + BEYOND or top >= box[3] + BEYOND or right <= box[0] - BEYOND or low <= box[1] - BEYOND:
        raise InputError(
            f"{each.where}: has a mask of the edges {_shown(edges)} outside its box {_shown(box)}; mend it"
        )
    if min(left + width, top + height) < 0 or right > 2 * width or low > 2 * height:
        raise InputError(
            f"{each.where}: has a mask of the edges {_shown(edges)} far outside its image of {width} x {height} "
            "pixels; mend it"
        )
    if min(left, top) < -BEYOND or right > width + BEYOND or low > height + BEYOND:
        odd.setdefault("mask", []).append(each.where)
    if not each.ignored and is_empty(mask, height, width):
        odd.setdefault("no pixel", []).append(each.where)


def _box(each: Annotated, sides: tuple[int, int], odd: dict[str, list[str]]) -> Box | None:
    """The box cut to the image; None for one without area, whose place goes into `odd`. Raises InputError for a box
    outside its image and for edges that are swapped or no numbers.

    Plain numbers, as a small array costs ten times as much, and COCO has 860,000 boxes.
    """
    left, top, right, low = each.box
    height, width = sides
    if not all(map(math.isfinite, each.box)) or right < left or low < top:
        raise InputError(
            f"{each.where}: expected a box of left, top, right and lower edge, got {_shown(each.box)}; mend it"
        )
    if min(left, top) < -BEYOND or right > width + BEYOND or low > height + BEYOND:
        raise InputError(
            f"{each.where}: has the box {_shown(each.box)} outside its image of {width} x {height} pixels; mend it"
        )
    cut = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(low, float(height))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        odd.setdefault("no area", []).append(each.where)
        return None
    if cut != tuple(each.box):
        odd.setdefault("cut", []).append(each.where)
    return cut


def _shown(edges: Box) -> str:
    return " ".join(f"{edge:g}" for edge in edges)


def _joined(kept: list[tuple[Annotated, Box]], numbers: Mapping[str, int], masks: bool) -> Objects:
    boxes = np.array([box for _, box in kept], np.float32).reshape(-1, 4)
    sizes = boxes[:, 2:] - boxes[:, :2]
    given = np.array([np.nan if each.area is None else each.area for each, _ in kept], np.float32)
    return Objects(
        boxes,
        np.array([numbers[each.name] for each, _ in kept], np.int64),
        np.array([each.ignored for each, _ in kept], bool),
        np.where(np.isnan(given), sizes.prod(1), given).astype(np.float32),
        tuple(each.segmentation for each, _ in kept if each.segmentation is not None) if masks else None,
    )


def _odd(checked: list[_Checked], where: Path) -> list[str]:
    """Say what is odd, a line a kind with the first of its places."""
    of: dict[str, list[str]] = {}
    for each in checked:
        for kind, places in each.odd.items():
            of.setdefault(kind, []).extend(places)
    lines = [line.format(where=where, n=count(len(of[kind]), *noun), places=some(of[kind]))
             for kind, (line, *noun) in ODD.items() if kind in of]  # fmt: skip
    ignored = sum(int(each.objects.ignored.sum()) for each in checked)
    crowd = f"neither learned nor judged in {where}: {count(ignored, 'object')}, crowds or difficult ones"
    return [*lines, *([crowd] if ignored else [])]
