"""Find the images of a set of dense prediction, open their headers, and read lists of classes.

images = images_of(root, "images/{set}", "train")     # {"a": Path("images/train/a.jpg"), ...}
"""

import struct
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from pipeline.errors import InputError

IMAGES = ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"
LIST, HEAD = ".txt", "Idx"
"""How the name of a set ends that is a list of names; and how ADE20K's table of classes begins."""
UNREADABLE = OSError, SyntaxError, Image.DecompressionBombError
"""What Pillow raises for a file that it cannot read."""
ORIENTATION = 0x0112
"""EXIF's tag of how an image is to be turned: 1 not at all, 2 to 4 mirrored or upside down, 5 to 8 on its side."""
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""The last bytes of a file of these formats."""


class Header(NamedTuple):
    """Height and width of an image as stored, and the turn that its EXIF asks for (ORIENTATION; 1: none)."""

    sides: tuple[int, int]
    turn: int


def images_of(root: Path, pattern: str, name: str) -> dict[str, Path]:
    """List the images of a set by their names without ending, in alphabetical order.

    Raises InputError for a folder or a list that is missing, a name of the list without an image, no image at all, and
    two images that differ in their ending alone.
    """
    folder = folder_of(root, pattern, name)
    images = _listed(root / name, folder) if name.endswith(LIST) else found(folder)
    if not images:
        raise InputError(f"{folder}: expected images ({', '.join(IMAGES)}), found none")
    return images


def folder_of(root: Path, pattern: str, name: str) -> Path:
    """Return the folder that a pattern with {set} names; of a list NAME.txt that of NAME, or the one without it."""
    folder = root / pattern.replace("{set}", name.removesuffix(LIST))
    return folder if folder.is_dir() or not name.endswith(LIST) else root / pattern.replace("{set}", "")


def found(folder: Path, endings: tuple[str, ...] = IMAGES) -> dict[str, Path]:
    """List the files below a folder by their name without ending, in alphabetical order."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of images, found none; see --data.root and --method.labels")
    return _by_stem(folder, (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in endings))


def _listed(file: Path, folder: Path) -> dict[str, Path]:
    """The images of a list that holds a name, with or without ending and folders, a line."""
    known = found(folder)
    composed_known = {composed(stem): stem for stem in known}
    stems = []
    for line in lines_of(file):
        stem = line if line in known else place_of(stem_of(line), composed_known, known)
        if stem is None:
            first, *behind = line.split()
            numbered = behind in (["-1"], ["0"], ["1"]) and stem_of(first) in known
            hint = "; VOC's lists of one class have numbers behind the names, the one without class has names alone"
            raise InputError(f"{file}: lists {line}, of which {folder} has no image{hint if numbered else ''}")
        stems.append(stem)
    return {stem: known[stem] for stem in sorted(set(stems))}


def lines_of(file: Path) -> list[str]:
    """Read the lines of a list of images, empty ones left out. Raises InputError for a file that is missing."""
    if not file.is_file():
        raise InputError(f"{file}: expected a list of images, found no such file")
    lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    return [line.strip() for line in lines if line.strip()]


def composed(name: str) -> str:
    """Write letters with marks as one character each (Unicode's NFC): disks and tools write them as one or as two."""
    return unicodedata.normalize("NFC", name)


def composed_names(files: Mapping[str, Path]) -> dict[str, Path]:
    """Key files by their composed names. Raises InputError for two of the same."""
    made: dict[str, Path] = {}
    for stem, path in files.items():
        if (name := composed(stem)) in made:
            raise InputError(f"{path}: expected one file called {name}, found {made[name]}, too; take one out")
        made[name] = path
    return made


def stem_of(name: str) -> str:
    """Return the name of a file as lists and JSONs have it, folders included, without ending: "s/a" of "./s\\a.jpg"."""
    path = PurePosixPath(name.replace("\\", "/"))
    return composed((path.parent / path.stem).as_posix())


def place_of(stem: str, known: Mapping[str, str], files: Mapping[str, Path]) -> str | None:
    """Find the image that a list or a JSON names from the images' folder, or from one above it: images/train/a of
    DATA/images/train/a.jpg; None where there is none.

    known  keys of `files` by their composed form
    """
    parts = [part for part in stem.split("/") if part]
    for first in range(len(parts)):
        key = known.get("/".join(parts[first:]))
        if key is not None and (first == 0 or _whole_stem(files[key]).endswith("/" + "/".join(parts))):
            return key
    return None


def _whole_stem(path: Path) -> str:
    return composed(path.absolute().with_suffix("").as_posix())


def _by_stem(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in by_stem:
            raise InputError(f"{path}: expected one image called {stem}, found {by_stem[stem].name}, too; take one out")
        by_stem[stem] = path
    return by_stem


def sides_of(path: Path) -> tuple[int, int]:
    """Read height and width of an image as stored, from its header. Raises InputError for what is no image of 8 bits a
    colour."""
    return header_of(path).sides


def header_of(path: Path) -> Header:
    """Read an image's header. Raises InputError for what is no image of 8 bits a colour."""
    try:
        with Image.open(path) as opened:
            width, height = _of_8_bits(opened, path).size
            turn = _turn(opened)
    except UNREADABLE as error:
        raise InputError(f"{path}: expected an image, got a file that does not open ({error})") from error
    return Header((height, width), turn)


def _turn(opened: Image.Image) -> int:
    if opened.format not in ("JPEG", "MPO", "WEBP"):  # Pillow turns TIFF itself, and decodes all of a PNG for its EXIF
        return 1
    try:
        turn = opened.getexif().get(ORIENTATION, 1)
    except (ValueError, KeyError, TypeError, struct.error, *UNREADABLE):  # EXIF that is damaged asks for nothing
        return 1
    return turn if turn in range(1, 9) else 1


def check_end(path: Path) -> None:
    """Decode a JPEG or PNG that does not end as one does. Raises InputError where it is cut off."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 64))
        tail = file.read()
    kind = "JPEG" if start.startswith(b"\xff\xd8") else "PNG" if start == b"\x89PNG" else None
    if kind is not None and ENDS[kind] not in tail:
        read_image(path)


def read_image(path: Path) -> tv_tensors.Image:
    """Decode an image file: u8 [3, H, W]. Raises InputError for a file that does not decode."""
    try:
        with Image.open(path) as opened:
            pixels = np.array(_of_8_bits(opened, path).convert("RGB"))
    except UNREADABLE as error:
        raise InputError(f"{path}: expected an image, got a file that does not decode ({error})") from error
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))


def _of_8_bits(image: Image.Image, path: Path) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # Pillow would cut their values off
        raise InputError(f"{path}: expected an image of 8 bits, got {image.mode}; convert it")
    return image


def read_classes(path: Path) -> tuple[str, ...]:
    """Read a list of classes: a name a line, or ADE20K's objectInfo150.txt, of which the last column is read."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: expected the names of the classes, one a line, found no such file; write it, or give "
            "--method.labels.names"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected the names of the classes, one a line in UTF-8, got {error}") from error
    if lines and lines[0].startswith(HEAD):
        lines = [line.split("\t")[-1].strip() for line in lines[1:]]
    return tuple(lines)


def check_different(classes: tuple[str, ...], where: str) -> None:
    """Raise InputError for a name that comes twice."""
    twice = [name for number, name in enumerate(classes) if name in classes[:number]]
    if twice:
        raise InputError(f"{where}: expected different names, got {twice[0]} twice")
