"""Read an image's header, an image and the numbers of a mask with Pillow; whatever it raises becomes one line.

header = header_of(path)          # Header(sides=(375, 500), turn=1)
image = read_image(path)          # u8 [3, H, W]
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from pipeline.errors import InputError

ORIENTATION = 0x0112
"""EXIF's tag of how an image is to be turned: 1 not at all, 2 to 4 mirrored or upside down, 5 to 8 on its side."""
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""The last bytes of a file of these formats."""
STEPS = {"L;2": 85, "L;4": 17}
"""Raw modes of grey of 2 and 4 bits, whose values Pillow spreads over 0 to 255 in these steps."""


class Header(NamedTuple):
    """Height and width of an image as stored, and the turn that its EXIF asks for (ORIENTATION; 1: none)."""

    sides: tuple[int, int]
    turn: int


def header_of(path: Path) -> Header:
    """Read an image's header. Raises InputError for what is no image of 8 bits a colour."""
    with _opened(path, "an image", "open") as opened:
        width, height = _of_8_bits(opened, path).size
        turn = _turn(opened)
    return Header((height, width), turn)


def read_image(path: Path) -> tv_tensors.Image:
    """Decode an image file: u8 [3, H, W]. Raises InputError for a file that does not decode."""
    with _opened(path, "an image", "decode") as opened:
        pixels = np.array(_of_8_bits(opened, path).convert("RGB"))
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))


def read_numbers(path: Path) -> tuple[str, np.ndarray]:
    """Decode a mask: Pillow's mode, and its values as the file holds them, i64 [H, W] or [H, W, C]. Raises InputError
    for a file that does not decode."""
    with _opened(path, "a mask", "decode") as opened:
        parts = getattr(opened, "tile", ())
        raw = parts[0][3] if parts else None
        values = np.array(opened).astype(np.int64) // STEPS.get(raw[0] if isinstance(raw, tuple) else raw, 1)
        return opened.mode, values


def check_end(path: Path) -> None:
    """Decode a JPEG or PNG that does not end as one does. Raises InputError where it is cut off."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 64))
        tail = file.read()
    kind = "JPEG" if start.startswith(b"\xff\xd8") else "PNG" if start == b"\x89PNG" else None
    if kind is not None and ENDS[kind] not in tail:
        read_image(path)


@contextmanager
def _opened(path: Path, expected: str, done: str) -> Generator[Image.Image]:
    """Open a file with Pillow. Raises InputError for all that is raised meanwhile: of damaged files Pillow's decoders
    raise whatever their arithmetic does."""
    try:
        with Image.open(path) as opened:
            yield opened
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: expected {expected}, got a file that does not {done} ({reason})") from error


def _turn(opened: Image.Image) -> int:
    """Pillow turns TIFF itself, so that none is left to say; PNG is asked only where EXIF comes before the pixels, as
    all of them would be decoded to look behind."""
    if opened.format not in ("JPEG", "MPO", "WEBP") and not (opened.format == "PNG" and "exif" in opened.info):
        return 1
    try:
        turn = opened.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF that is damaged asks for nothing
        return 1
    return turn if turn in range(1, 9) else 1


def _of_8_bits(image: Image.Image, path: Path) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # Pillow would cut their values off
        raise InputError(f"{path}: expected an image of 8 bits, got {image.mode}; convert it")
    return image
