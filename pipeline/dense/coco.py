"""Read boxes and masks of objects from one JSON file in COCO's format.

file = CocoFile(Path("annotations/instances_val2017.json"), masks=False)
file.of("000000000139", (426, 640))[0].name     # "tv"
"""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, final

import numpy as np

from pipeline.dense.annotations import Annotated, Annotations, Segmentation
from pipeline.dense.images import IMAGES, place_of, stem_of
from pipeline.dense.segmentations import run_lengths
from pipeline.errors import InputError
from pipeline.text import count, some

ID = int | str
GZIP = b"\x1f\x8b"


@final
class CocoFile(Annotations):
    """Objects of a JSON file with "images", "annotations" and "categories".

    masks  read each object's "segmentation", too

    Ids may be numbers or their digits as strings. A file_name begins at the images' folder or at one above it. Raises
    InputError for a file that is no such JSON, two categories or images of one id or name, and an annotation of an
    image or a category that is not listed.
    """

    def __init__(self, path: Path, *, masks: bool) -> None:
        self.path, self._masks = path, masks
        raw = _read(path)
        self._digest = hashlib.sha256(raw).digest()
        held = _parsed(raw, path)
        categories, images, annotations = (_list(held, key, path) for key in ("categories", "images", "annotations"))
        self._categories = _by_id(categories, "category", "name", path)
        self._files = _by_id(images, "image", "file_name", path)
        self._sides = {stem_of(each["file_name"]): _size(each, path) for each in images}
        self._keys: dict[str, str] = {}
        stems = {number: stem_of(name) for number, name in self._files.items()}
        self._objects: dict[str, list[dict]] = defaultdict(list)
        ids: Counter[str] = Counter()
        for place, each in enumerate(annotations, 1):
            where = f"{path}: annotation {each.setdefault('id', f'in place {place}')}"
            ids[str(each["id"])] += 1
            if "segments_info" in each:
                raise InputError(
                    f"{where} has segments_info, as COCO's panoptic files have; expected boxes, as its instances have"
                )
            image, category = _id(each.get("image_id")), _id(each.get("category_id"))
            if image is None or image not in stems:
                raise InputError(f"{where} is of image {each.get('image_id')}, expected one of the list; take it out")
            if category is None or category not in self._categories:
                known = some([str(number) for number in self._categories], 5) or "its list, which is empty"
                raise InputError(f"{where} is of category {each.get('category_id')}, expected one of {known}")
            self._objects[stems[image]].append(each)
        self._repeated = [each for each, times in ids.items() if times > 1]

    def names(self) -> tuple[str, ...]:
        """List the categories in the order of their ids (COCO has 80 with ids up to 90)."""
        order = sorted(self._categories, key=lambda each: (isinstance(each, str), each))
        return tuple(self._categories[each] for each in order)

    def images(self, found: Mapping[str, Path], *, listed: bool) -> dict[str, Path]:
        """Choose the images of the file, all of which must be there unless they are those of a list."""
        known = {stem: stem for stem in found}
        places = {stem: place_of(stem, known, found) for stem in self._sides}
        for stem, place in places.items():
            if place is None:
                continue
            if (other := self._keys.setdefault(place, stem)) != stem:
                raise InputError(
                    f"{self.path}: names {found[place]} twice, as {other} and as {stem}; keep one entry of it"
                )
        lost = [] if listed else [name for name in self._files.values() if places[stem_of(name)] is None]
        if lost:
            ending = PurePosixPath(lost[0]).suffix
            last = stem_of(lost[0]).rpartition("/")[2]
            hint = f"; {last} is there without these folders" if last in known else ""
            unread = f"; images end in {', '.join(IMAGES)}" if ending and ending.lower() not in IMAGES else hint
            raise InputError(
                f"{self.path}: names {count(len(lost), 'image')} not found, the first {lost[0]}{unread}; check "
                "--method.labels.images, the folder that names begin at, or mend the names"
            )
        return {stem: path for stem, path in found.items() if stem in self._keys}

    def sides(self, stem: str) -> tuple[int, int] | None:
        """Return an image's "height" and "width"; None where they are absent or 0."""
        return self._sides[self._keys[stem]]

    def of(self, stem: str, sides: tuple[int, int]) -> list[Annotated]:
        """Read the annotations of an image."""
        return [self._annotated(each, stem, sides) for each in self._objects.get(self._keys[stem], ())]

    def content(self, stem: str) -> bytes:
        """Return the digest of the whole file."""
        return self._digest

    def notes(self, used: Mapping[str, Path], *, listed: bool) -> list[str]:
        """Name the ids that several annotations have."""
        if not self._repeated:
            return []
        shown = f"{count(len(self._repeated), 'id')}: {some(self._repeated)}"
        return [f"more than one annotation in {self.path} of {shown}; all of them are used"]

    def _annotated(self, each: dict, stem: str, sides: tuple[int, int]) -> Annotated:
        where = f"{self.path}: annotation {each['id']} of {stem}"
        given = each.get("bbox")
        edges = [_number(edge) for edge in given] if isinstance(given, list) else []
        if len(edges) != 4 or None in edges:
            raise InputError(f"{where}: expected bbox [left, top, width, height], got {str(given)[:60]}")
        left, top, width, height = (edge for edge in edges if edge is not None)
        area, attributes = _number(each.get("area")), each.get("attributes")
        known = area is not None and math.isfinite(area) and area > 0
        rotated = isinstance(attributes, dict) and bool(_number(attributes.get("rotation")))
        unread = not known and each.get("area") is not None
        category = _id(each["category_id"])
        assert category is not None  # as checked when the file was opened
        return Annotated(
            where,
            self._categories[category],
            (left, top, left + width, top + height),
            _flag(each.get("iscrowd"), where, "iscrowd") or _flag(each.get("ignore"), where, "ignore"),
            area if known else None,
            _segmentation(each.get("segmentation"), where, sides) if self._masks else None,
            (*(("rotated",) if rotated else ()), *(("area",) if unread else ())),
        )


def _id(given: Any) -> ID | None:
    """An id as a number, which tools write as 1, 1.0 or "1"; other strings as they are; None for what is no id."""
    if isinstance(given, str):
        return int(given) if given.strip().isdecimal() and len(given) < 30 else given
    if isinstance(given, float) and given.is_integer():
        return int(given)
    return given if isinstance(given, int) and not isinstance(given, bool) else None


def _number(given: Any) -> float | None:
    """A number, or one that is written as a string; None for anything else."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    try:
        return float(given)
    except (ValueError, OverflowError):
        return None


def _flag(given: Any, where: str, name: str) -> bool:
    """0 or 1, which tools write as numbers, strings, true or false; absent or null is 0."""
    value = {"": 0, "none": 0, "0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}.get(str(given or 0).lower())
    if value is None:
        raise InputError(f"{where}: expected {name} 0 or 1, got {str(given)[:60]}")
    return bool(value)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: expected COCO's JSON of boxes, found no such file; --method.labels.boxes names it"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: expected COCO's JSON of boxes, it cannot be read ({error})") from error


def _parsed(raw: bytes, path: Path) -> dict[str, Any]:
    if raw.startswith(GZIP):
        raise InputError(f"{path}: expected COCO's JSON of boxes, got a gzip archive; unpack it")
    try:
        held = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected COCO's JSON of boxes, got what does not parse ({error})") from error
    if not isinstance(held, dict):
        results = ", as a detector's results are" if isinstance(held, list) else ""
        raise InputError(
            f'{path}: expected COCO\'s JSON with "images", "annotations" and "categories", got a '
            f"{type(held).__name__}{results}"
        )
    return held


def _list(held: dict[str, Any], key: str, path: Path) -> list[dict]:
    found = held.get(key)
    if not isinstance(found, list):
        came = some(list(held), 6) or "nothing" if key not in held else f"a {type(found).__name__}"
        raise InputError(f'{path}: expected a list "{key}", as COCO\'s JSON has it, found {came}')
    for place, each in enumerate(found, 1):
        if not isinstance(each, dict):
            raise InputError(f'{path}: expected an object in place {place} of "{key}", got {str(each)[:60]}')
    return found


def _by_id(entries: list[dict], kind: str, name: str, path: Path) -> dict[ID, str]:
    """Names by id. Raises InputError for an entry without one of the two, and for ids and names that come twice."""
    names: dict[ID, str] = {}
    for each in entries:
        number, given = _id(each.get("id")), each.get(name)
        if number is None or not isinstance(given, str) or not given.strip():
            raise InputError(f'{path}: expected "id" and "{name}" of each {kind}, got {str(each)[:100]}')
        if number in names:
            raise InputError(f"{path}: expected different ids, {kind} {number} comes twice")
        names[number] = given.strip()
    shown = Counter(stem_of(each) if kind == "image" else each for each in names.values())
    twice = [each for each, times in shown.items() if times > 1]
    if twice:
        raise InputError(f"{path}: expected different names, {kind} {twice[0]} comes twice")
    return names


def _size(image: dict, path: Path) -> tuple[int, int] | None:
    given = [image.get(key) for key in ("height", "width")]
    sides = [0 if each is None else _id(each) for each in given]
    if not all(isinstance(side, int) for side in sides):
        raise InputError(f"{path}: expected height and width of {image['file_name']} in pixels, got {given}")
    height, width = (side for side in sides if isinstance(side, int))
    return (height, width) if height and width else None


def _segmentation(given: Any, where: str, sides: tuple[int, int]) -> Segmentation | None:
    """Polygons as arrays, or RLE as it is; None where there is none. Raises InputError for anything else."""
    if not given:
        return None
    if isinstance(given, dict):
        return _rle(given, where, sides)
    if isinstance(given, list) and not isinstance(given[0], list):  # VIA's: one polygon, without a list around it
        given = [given]
    try:
        polygons = [np.asarray(each, np.float64) for each in given]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: expected a segmentation of polygons or RLE, got {str(given)[:60]}") from error
    for each in polygons:
        if each.ndim != 1 or each.size < 6 or each.size % 2 or not np.isfinite(each).all():
            came = str(each.tolist())[:60]
            raise InputError(f"{where}: expected polygons of three points or more, x and y in turn, got {came}")
    return polygons


def _rle(given: dict, where: str, sides: tuple[int, int]) -> dict:
    """RLE of an image's size whose runs fill it, as it is."""
    size, counts = given.get("size"), given.get("counts")
    if size != list(sides) or not isinstance(counts, list | str):
        raise InputError(f"{where}: expected RLE of {sides[0]} rows and {sides[1]} columns, got one of {size}")
    try:
        runs = run_lengths(counts) if isinstance(counts, str) else counts
    except ValueError as error:
        raise InputError(f"{where}: expected compressed RLE, got {counts[:60]!r}, which {error}") from error
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != sides[0] * sides[1]:
        came = str(runs)[:60]
        raise InputError(f"{where}: expected runs of {sides[0] * sides[1]} pixels together, got {came}")
    return given
