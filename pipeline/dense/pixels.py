"""Find the images and masks of a set, check every one of them, and read a pair.

found = open_pixels(data, labels, data.train)     # ADE20K's, CamVid's or any folders; see PixelLabels
image, classes = found.read(0)                   # u8 [3, H, W], u8 [H, W]

What is wrong is said before training, in one line with the file's name: every mask is decoded, of an image the header
is read. Pixels are as stored: a turn that a photograph's EXIF asks for is not made, as masks are drawn on what is
stored (Pillow itself turns TIFF as it decodes).
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torchvision import tv_tensors

from pipeline.batch import IGNORED
from pipeline.concurrency.cores import decode_threads
from pipeline.concurrency.threads import Threads
from pipeline.dense.decoding import header_of, read_image, read_numbers
from pipeline.dense.images import (
    LIST,
    check_different,
    classes_note,
    composed,
    composed_names,
    folder_of,
    found,
    images_of,
    read_classes,
    repeated_notes,
)
from pipeline.errors import InputError
from pipeline.spec import Data, PixelLabels
from pipeline.text import count, some

ONE_CHANNEL = "1", "L", "P", "I", "I;16"
"""Pillow's modes of a mask; of a palette's colours the numbers are read."""


class Pair(NamedTuple):
    """One image and its mask, as it was found: the digest of both files, the pixels of each class, i64 [C], and whether
    EXIF asks for a turn."""

    digest: bytes
    counts: np.ndarray
    turned: bool


@final
@dataclass(frozen=True, eq=False)
class PixelSet:
    """The images of a set, each with its mask.

    path           the set, as messages name it
    names          of the images below their folder, without ending, in alphabetical order: an image's id is its place
    images, masks  their files
    classes        names in the order of their numbers
    counts         i64 [C]  pixels of each class
    digest         of all files and of how masks are read; runs are resumed on the same alone
    odd            lines about how it was read, and about what is odd and no error
    """

    path: Path
    names: tuple[str, ...]
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    classes: tuple[str, ...]
    labels: PixelLabels
    counts: np.ndarray
    digest: str
    odd: tuple[str, ...]

    @property
    def n(self) -> int:
        """Count the images."""
        return len(self.images)

    def read(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Decode an image, u8 [3, H, W], and its mask, u8 [H, W], IGNORED where a pixel has no class.

        Raises InputError, naming the file, for what no longer decodes.
        """
        image = read_image(self.images[index])
        classes = read_mask(self.masks[index], self.labels, len(self.classes))
        return image, tv_tensors.Mask(torch.from_numpy(classes))

    def notes(self) -> list[str]:
        """Say, a line each, what the classes of a file are called, and what is odd about the set and no error: masks
        without an image, lines of a list that come again, images that EXIF turns, classes without a pixel."""
        empty = [name for name, pixels in zip(self.classes, self.counts, strict=True) if not pixels]
        return [*self.odd, *([f"no pixel of {self.path} is of class {some(empty)}"] if empty else [])]


def open_pixels(data: Data, labels: PixelLabels, name: str) -> PixelSet:
    """Open the set called `name` (data.train, say) and check every image and mask of it, by `data.threads` threads.

    Raises InputError for a folder, a list of classes, an image or a mask that is missing, an empty set, a mask of
    another size than its image or with more than one channel, a class beyond the list, and a set without a labelled
    pixel.
    """
    root = Path(data.root)
    classes = labels.names or read_classes(root / labels.classes)
    check_classes(classes, "names" if labels.names else str(root / labels.classes))
    images, masks = images_of(root, labels.images, name), folder_of(root, labels.masks, name)
    if not masks.is_dir():
        raise InputError(f"{masks}: expected a folder of masks, found none; --method.labels.masks names it")
    known = composed_names(found(masks, (".png",)))
    files = {stem: known[composed(stem)] if composed(stem) in known else masks / f"{stem}.png" for stem in images}
    threads = Threads(decode_threads(data.threads), "check")
    try:
        checked = [threads.submit(check_pair, images[stem], files[stem], labels, classes) for stem in images]
        pairs = [each.result() for each in checked]
    finally:
        threads.close()
    counts = np.sum([pair.counts for pair in pairs], 0)
    if not counts.any():
        raise InputError(f"{masks}: expected pixels with a class, all of {count(len(images), 'mask')} are ignored")
    how = repr((classes, labels.zero_ignored, labels.ignored)).encode()
    digest = hashlib.sha256(how + b"".join(os.fsencode(s) + p.digest for s, p in zip(images, pairs, strict=True)))
    said = [] if labels.names else [classes_note(classes, root / labels.classes)]
    turned = [stem for stem, pair in zip(images, pairs, strict=True) if pair.turned]
    return PixelSet(
        root / name, tuple(images), tuple(images.values()), tuple(files.values()), tuple(classes), labels, counts,
        digest.hexdigest(), (*said, *_odd(root / name, images, known, turned)),
    )  # fmt: skip


def _odd(path: Path, images: Mapping[str, Path], masks: Mapping[str, Path], turned: list[str]) -> list[str]:
    """Say what of a set is not used, and what its EXIF turns, a line each."""
    lines: list[str] = []
    if path.name.endswith(LIST):
        lines += repeated_notes(path, images)
    elif unused := masks.keys() - {composed(stem) for stem in images}:
        lines.append(f"{count(len(unused), 'mask')} of {path} have no image and are not used: {some(sorted(unused))}")
    if turned:
        lines.append(
            f"turned by EXIF in {path}: {count(len(turned), 'image')}, whose masks are taken to be of the pixels as "
            f"stored, not as viewers show them: {some(turned)}"
        )
    return lines


def check_pair(image: Path, mask: Path, labels: PixelLabels, classes: tuple[str, ...]) -> Pair:
    """Compare an image and its mask; -> their digest and the pixels of each class. Raises InputError as `open_pixels`
    says."""
    if not mask.is_file():
        raise InputError(f"{image}: expected its mask {mask}, found none{_near(mask)}; add it, or take the image out")
    (height, width), turn = header_of(image)
    values = read_mask(mask, labels, len(classes))
    if values.shape != (height, width):
        came = f"{values.shape[1]} x {values.shape[0]}"
        exif = ", or turn the image's pixels, which EXIF turns for viewers" if turn > 1 else ""
        raise InputError(
            f"{mask}: expected the size of its image, {width} x {height}, got {came}; make them equal{exif}"
        )
    digest = hashlib.sha256(hashlib.sha256(image.read_bytes()).digest() + hashlib.sha256(mask.read_bytes()).digest())
    counts = np.bincount(values.ravel(), minlength=256)[: len(classes)].astype(np.int64)
    return Pair(digest.digest(), counts, turn > 1)


def _near(mask: Path) -> str:
    """Say which files beside an absent mask begin with its name."""
    beside = mask.parent.iterdir() if mask.parent.is_dir() else ()
    near = sorted(path.name for path in beside if path.name.startswith(mask.stem))
    return f" (there is {some(near)}: a mask is PNG and has its image's name)" if near else ""


def read_mask(path: Path, labels: PixelLabels, classes: int) -> np.ndarray:
    """Decode a mask: the class of each pixel, u8 [H, W], from 0 to classes - 1, or IGNORED.

    Raises InputError for a file that does not decode, has several channels, or holds a class beyond the list.
    """
    mode, values = read_numbers(path)
    if mode not in ONE_CHANNEL:
        raise InputError(f"{path}: expected a mask of one channel, its values class numbers, got {mode}; convert it")
    first = int(labels.zero_ignored)
    none = (values == labels.ignored) | (values < first if first else False)
    wrong = ~none & ((values < first) | (values >= classes + first))
    if wrong.any():
        raise InputError(
            f"{path}: holds class {values[wrong].flat[0]}, expected {first} to {classes - 1 + first}, as the list has "
            f"{count(classes, 'class')}; --method.labels.ignored says which value has none, here {labels.ignored}"
        )
    return np.where(none, IGNORED, values - first).astype(np.uint8)


def check_classes(classes: tuple[str, ...], where: str) -> None:
    """Raise InputError for fewer than two classes, more than a mask of 8 bits can hold, and a name that comes twice."""
    if not 2 <= len(classes) <= IGNORED:
        raise InputError(f"{where}: expected 2 to {IGNORED} classes, got {len(classes)}")
    check_different(classes, where)
