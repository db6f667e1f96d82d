"""Read boxes and masks of objects from one JSON file in COCO's format.

file = CocoFile(Path("annotations/instances_val2017.json"))
file.of("000000000139", (426, 640))[0].name     # "tv"
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from pipeline.dense.annotations import Annotated, Annotations, Segmentation
from pipeline.errors import InputError
from pipeline.text import count, some


@final
class CocoFile(Annotations):
    """Objects of a JSON file with "images", "annotations" and "categories".

    Raises InputError for a file that is no such JSON, two categories or images of one id or name, and an annotation of
    an image or a category that is not listed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        raw = _read(path)
        self._digest = hashlib.sha256(raw).digest()
        held = _parsed(raw, path)
        categories, images, annotations = (_list(held, key, path) for key in ("categories", "images", "annotations"))
        self._categories = _by_id(categories, "category", "name", path)
        self._files = _by_id(images, "image", "file_name", path)
        self._sides = {_stem(each["file_name"]): _size(each) for each in images}
        stems = {number: _stem(name) for number, name in self._files.items()}
        self._objects: dict[str, list[dict]] = defaultdict(list)
        for each in annotations:
            where = f"{path}: annotation {each.get('id')}"
            if each.get("image_id") not in stems:
                raise InputError(f"{where} is of image {each.get('image_id')}, expected one of the list; take it out")
            if each.get("category_id") not in self._categories:
                known = some([str(number) for number in self._categories], 5)
                raise InputError(f"{where} is of category {each.get('category_id')}, expected one of {known}")
            self._objects[stems[each["image_id"]]].append(each)

    def names(self) -> tuple[str, ...]:
        """List the categories in the order of their ids (COCO has 80 with ids up to 90)."""
        return tuple(name for _, name in sorted(self._categories.items()))

    def images(self, found: Mapping[str, Path], *, listed: bool) -> dict[str, Path]:
        """Choose the images of the file, all of which must be there unless they are those of a list."""
        chosen = {stem: path for stem, path in found.items() if stem in self._sides}
        lost = [] if listed else [name for name in self._files.values() if _stem(name) not in found]
        if lost:
            raise InputError(
                f"{self.path}: names {count(len(lost), 'image')} that are not there, the first {lost[0]}; check "
                "--method.labels.images, or take them out"
            )
        return chosen

    def sides(self, stem: str) -> tuple[int, int] | None:
        """Return an image's "height" and "width"."""
        return self._sides[stem]

    def of(self, stem: str, sides: tuple[int, int]) -> list[Annotated]:
        """Read the annotations of an image."""
        return [self._annotated(each, stem, sides) for each in self._objects.get(stem, ())]

    def content(self, stem: str) -> bytes:
        """Return the digest of the whole file."""
        return self._digest

    def notes(self, used: Mapping[str, Path]) -> list[str]:
        """Count the images of the file that are not used."""
        left = len(self._files) - len(used)
        return [f"{count(left, 'image')} of {self.path} are not of the set and are not used"] if left else []

    def _annotated(self, each: dict, stem: str, sides: tuple[int, int]) -> Annotated:
        where = f"{self.path}: annotation {each.get('id')}, of {stem},"
        try:
            left, top, width, height = map(float, each["bbox"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where} expected bbox [left, top, width, height], got {each.get('bbox')}") from error
        area = each.get("area")
        return Annotated(
            where,
            self._categories[each["category_id"]],
            (left, top, left + width, top + height),
            bool(each.get("iscrowd", 0) or each.get("ignore", 0)),
            float(area) if isinstance(area, int | float) else None,
            _segmentation(each.get("segmentation"), where, sides),
        )


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
    try:
        held = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected COCO's JSON of boxes, got what does not parse ({error})") from error
    if not isinstance(held, dict):
        raise InputError(
            f'{path}: expected COCO\'s JSON with "images", "annotations" and "categories", got a {type(held).__name__}'
        )
    return held


def _list(held: dict[str, Any], key: str, path: Path) -> list[dict]:
    found = held.get(key)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InputError(
            f'{path}: expected a list "{key}", as COCO\'s JSON has it, found {", ".join(held) or "nothing"}'
        )
    return found


def _by_id(entries: list[dict], kind: str, name: str, path: Path) -> dict[Any, str]:
    """Names by id. Raises InputError for an entry without one of the two, and for ids and names that come twice."""
    names: dict[Any, str] = {}
    for each in entries:
        if not isinstance(each.get("id"), int | str) or not isinstance(each.get(name), str):
            raise InputError(f'{path}: expected "id" and "{name}" of each {kind}, got {str(each)[:100]}')
        if each["id"] in names:
            raise InputError(f"{path}: expected different ids, {kind} {each['id']} comes twice")
        names[each["id"]] = each[name]
    shown = [_stem(each) if kind == "image" else each for each in names.values()]
    if len(set(shown)) < len(shown):
        twice = next(each for number, each in enumerate(shown) if each in shown[:number])
        raise InputError(f"{path}: expected different names, {kind} {twice} comes twice")
    return names


def _size(image: dict) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) and height and width else None


def _stem(file_name: str) -> str:
    return Path(file_name.replace("\\", "/")).with_suffix("").as_posix()


def _segmentation(given: Any, where: str, sides: tuple[int, int]) -> Segmentation | None:
    """Polygons as arrays, or RLE as it is; None where there is none. Raises InputError for anything else."""
    if not given:
        return None
    if isinstance(given, dict):
        if list(given.get("size", ())) != list(sides) or not isinstance(given.get("counts"), list | str):
            came = given.get("size")
            raise InputError(f"{where} expected RLE of {sides[0]} rows and {sides[1]} columns, got one of {came}")
        return given
    try:
        polygons = [np.asarray(each, np.float64) for each in given]
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} expected a segmentation of polygons or RLE, got {str(given)[:60]}") from error
    wrong = [
        each for each in polygons if each.ndim != 1 or each.size < 6 or each.size % 2 or not np.isfinite(each).all()
    ]
    if wrong:
        raise InputError(f"{where} expected polygons of three points or more, x and y in turn, got {wrong[0].tolist()}")
    return polygons
