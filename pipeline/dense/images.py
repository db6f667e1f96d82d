"""Find the images of a set of dense prediction, open their headers, and read lists of classes.

images = images_of(root, "images/{set}", "train")     # {"a": Path("images/train/a.jpg"), ...}
"""

from collections.abc import Iterable
from pathlib import Path

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
    """The images of a list that holds a name, with or without ending, a line."""
    if not file.is_file():
        raise InputError(f"{file}: expected a list of images, found no such file")
    known = found(folder)
    lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    stems = [_stem(line.strip(), known) for line in lines if line.strip()]
    lost = [stem for stem in stems if stem not in known]
    if lost:
        raise InputError(f"{file}: lists {lost[0]}, of which {folder} has no image")
    return {stem: known[stem] for stem in sorted(set(stems))}


def _stem(line: str, known: dict[str, Path]) -> str:
    """A name of a list without the ending of an image, unless the name itself is known (a.b is no ending)."""
    return line if line in known else str(Path(line).with_suffix("").as_posix())


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
    try:
        with Image.open(path) as opened:
            width, height = _of_8_bits(opened, path).size
    except UNREADABLE as error:
        raise InputError(f"{path}: expected an image, got a file that does not open ({error})") from error
    return height, width


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
