"""Read boxes of objects from a folder with a file for each image: PASCAL VOC's XML, or YOLO's text.

VocFolder(Path("Annotations"))        # NAME.xml
YoloFolder(Path("labels/train"), classes=("cat", "dog"))     # NAME.txt
"""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import final

import numpy as np

from pipeline.dense.annotations import Annotated, Annotations
from pipeline.dense.images import composed_names, found
from pipeline.errors import InputError
from pipeline.text import count, some

EDGES = "xmin", "ymin", "xmax", "ymax"
DIFFICULT = {"1": True, "true": True, "": False, "0": False, "false": False, "unspecified": False}
"""What tools write into <difficult>."""


@final
class VocFolder(Annotations):
    """Objects of NAME.xml for each image NAME. VOC counts pixels from 1 and names the first and the last that belong to
    an object: its box reaches from xmin - 1 to xmax. Difficult objects are ignored, as VOC's own evaluation does.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._files = path, composed_names(found(path, (".xml",)))
        self._roots: dict[str, ElementTree.Element] = {}

    def names(self) -> tuple[str, ...]:
        """List the names of all objects of the folder, in alphabetical order."""
        return tuple(sorted({_name(each, self._files[stem]) for stem in self._files for each in self._objects(stem)}))

    def images(self, found: Mapping[str, Path], *, listed: bool) -> dict[str, Path]:
        """Choose all images. Raises InputError for one without a file."""
        for stem, path in found.items():
            if stem not in self._files:
                raise InputError(
                    f"{path}: expected its boxes in {self.path / stem}.xml, found no such file; add it, or take the "
                    "image out"
                )
        return dict(found)

    def sides(self, stem: str) -> tuple[int, int] | None:
        """Return <size>'s height and width; None where it is absent or 0, as some tools write it."""
        found = [self._root(stem).findtext(f"size/{each}", "0").strip() for each in ("height", "width")]
        sides = [float(each) if each.replace(".", "", 1).isdecimal() else 0.0 for each in found]
        if not all(map(math.isfinite, sides)):
            raise InputError(f"{self._files[stem]}: expected <size> in pixels, got {found[0][:20]} x {found[1][:20]}")
        height, width = map(int, sides)
        return (height, width) if height and width else None

    def of(self, stem: str, sides: tuple[int, int]) -> list[Annotated]:
        """Read the objects of an image."""
        return [_voc_object(each, self._files[stem], number) for number, each in enumerate(self._objects(stem), 1)]

    def content(self, stem: str) -> bytes:
        """Return an image's file."""
        return self._files[stem].read_bytes()

    def notes(self, used: Mapping[str, Path], *, listed: bool) -> list[str]:
        """Count the files that no image has."""
        return [] if listed else _unused(self.path, self._files.keys() - used.keys())

    def _objects(self, stem: str) -> list[ElementTree.Element]:
        return self._root(stem).findall("object")

    def _root(self, stem: str) -> ElementTree.Element:
        if stem not in self._roots:
            self._roots[stem] = _parsed(self._files[stem])
        return self._roots[stem]


def _unused(path: Path, stems: Collection[str]) -> list[str]:
    shown = f"{count(len(stems), 'file')} of no image of the set: {some(sorted(stems))}"
    return [f"not used in {path}: {shown}"] if stems else []


def _parsed(file: Path) -> ElementTree.Element:
    """The root of a VOC file, its elements without namespaces. Raises InputError for XML of another kind."""
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise InputError(f"{file}: expected VOC's XML, got what does not parse ({error})") from error
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    if root.tag != "annotation":
        raise InputError(f"{file}: expected VOC's XML, an <annotation> with <object>s, got <{root.tag}>")
    if root.find("object") is None and root.find(".//bndbox") is not None:
        raise InputError(f"{file}: expected <object>s directly in <annotation>, found none, and a bndbox elsewhere")
    return root


def _voc_object(element: ElementTree.Element, file: Path, number: int) -> Annotated:
    where = f"{file}: object {number}"
    given = [element.findtext(f"bndbox/{edge}", "").strip() for edge in EDGES]
    try:
        left, top, right, low = map(float, given)
    except ValueError as error:
        came = given if element.find("bndbox") is not None else f"<{'>, <'.join(each.tag for each in element)}>"
        raise InputError(f"{where}: expected bndbox with {', '.join(EDGES)}, got {came}") from error
    if right < left or low < top:
        raise InputError(f"{where}: expected bndbox with xmin up to xmax and ymin up to ymax, got {given}; mend it")
    box = (
        (left - 1, top - 1, right, low) if left != right and top != low else (left, top, right, low)
    )  # one point: none
    given_difficult = element.findtext("difficult", "0").strip()
    ignored = DIFFICULT.get(given_difficult.lower())
    if ignored is None:
        raise InputError(f"{where}: expected difficult 0 or 1, got {given_difficult[:60]}")
    return Annotated(where, _name(element, file), box, ignored, odd=("rotated",) if _is_rotated(element) else ())


def _is_rotated(element: ElementTree.Element) -> bool:
    """Say whether CVAT's attribute "rotation" is there and not 0: its bndbox is the box before the turn."""
    given = {each.findtext("name", ""): each.findtext("value", "") for each in element.iterfind("attributes/attribute")}
    try:
        return float(given.get("rotation", "0")) != 0
    except ValueError:
        return False


def _name(element: ElementTree.Element, file: Path) -> str:
    name = element.findtext("name", "").strip()
    if not name:
        raise InputError(f"{file}: expected a name of each object, found one without")
    return name


def is_yolo(path: Path) -> bool:
    """Say whether a text begins as YOLO's do, with numbers alone, or is empty, as those of images without objects."""
    with path.open("rb") as file:
        first = file.read(1 << 12).decode("utf-8-sig", "replace").strip().partition("\n")[0].split()
    try:
        return not first or len([float(each) for each in first]) > 4
    except ValueError:
        return False


@final
class YoloFolder(Annotations):
    """Objects of NAME.txt for each image NAME: a line of class number, centre x and y, width and height, as shares of
    the image's sides; an image without a file has no object. Lines of a polygon have its box and its mask."""

    def __init__(self, path: Path, classes: tuple[str, ...], beside: Path | None = None) -> None:
        """beside  the list of classes, where it lies among the files or beside their folder."""
        files = composed_names(found(path, (".txt",)))
        self.path, self._classes, self._beside = path, classes, beside
        self._files = {stem: file for stem, file in files.items() if file != beside}

    def names(self) -> tuple[str, ...]:
        """List the classes as they were given: the files have numbers alone."""
        return self._classes

    @property
    def names_from(self) -> Path:
        """Return the list of classes, where it lies among the files or beside their folder."""
        return self._beside or self.path

    def images(self, found: Mapping[str, Path], *, listed: bool) -> dict[str, Path]:
        """Choose all images."""
        return dict(found)

    def sides(self, stem: str) -> None:
        """Return None: the files have shares alone."""
        return

    def of(self, stem: str, sides: tuple[int, int]) -> list[Annotated]:
        """Read the lines of an image's file."""
        if stem not in self._files:
            return []
        lines = self.content(stem).decode("utf-8-sig", "surrogateescape").splitlines()
        return [self._line(line, stem, n, sides) for n, line in enumerate(lines, 1) if line.strip()]

    def content(self, stem: str) -> bytes:
        """Return an image's file; nothing where it has none."""
        return self._files[stem].read_bytes() if stem in self._files else b""

    def notes(self, used: Mapping[str, Path], *, listed: bool) -> list[str]:
        """Count the images without a file, and the files that no image has."""
        bare = sorted(used.keys() - self._files.keys())
        shown = f"{count(len(bare), 'image')}, which is YOLO's way to say that no object is there: {some(bare)}"
        lines = [f"without a file in {self.path}: {shown}"] if bare else []
        return [*lines, *([] if listed else _unused(self.path, self._files.keys() - used.keys()))]

    def _line(self, line: str, stem: str, number: int, sides: tuple[int, int]) -> Annotated:
        where = f"{self._files[stem]}: line {number}"
        try:
            kind, *shares = map(float, line.split())
            if kind != int(kind) or not (len(shares) == 4 or (len(shares) >= 6 and len(shares) % 2 == 0)):
                raise ValueError(line)
        except (ValueError, OverflowError) as error:  # OverflowError: class inf
            scores = "; a sixth number, a score, is of predictions" if len(line.split()) == 6 else ""
            raise InputError(
                f"{where}: expected class, centre x and y, width and height, got {line.strip()[:60]!r}{scores}"
            ) from error
        if not 0 <= kind < len(self._classes):
            raise InputError(
                f"{where}: holds class {kind:g}, expected 0 to {len(self._classes) - 1}, as the list has "
                f"{count(len(self._classes), 'class')}"
            )
        return _yolo_object(where, self._classes[int(kind)], shares, sides)


def _yolo_object(where: str, name: str, shares: list[float], sides: tuple[int, int]) -> Annotated:
    height, width = sides
    if len(shares) == 4:
        x, y, over, down = shares
        box = (x - over / 2) * width, (y - down / 2) * height, (x + over / 2) * width, (y + down / 2) * height
        return Annotated(where, name, box)
    polygon = np.array(shares) * np.tile([width, height], len(shares) // 2)
    points = polygon.reshape(-1, 2)
    return Annotated(where, name, (*points.min(0), *points.max(0)), segmentation=[polygon])
