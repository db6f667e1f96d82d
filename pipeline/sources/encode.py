"""One source image -> the JPEG that the .beton stores; original bytes are kept where the training decoder takes them.

A JPEG is accepted only if libffcv decodes it without a warning: that refuses every truncation that Pillow refuses, and
more (tests/pipeline/sources/test_encode.py), so Pillow decodes nothing that libffcv can.
"""

import io
import struct
import threading
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from PIL.Image import Transpose

from pipeline.backends.libffcv import decode
from pipeline.errors import InputError
from pipeline.store.image_size import checked_size

How = Literal["passed through", "re-encoded", "resized"]
SMALL_SIDE = 64  # up to here halved chroma (4:2:0) would be visible: a 32-pixel image would have 16 x 16 colours
ORIENTATION = 0x0112
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_opening = threading.Lock()  # warning filters belong to the process


@dataclass(frozen=True)
class Prepared:
    """A JPEG ready to store, its size in pixels, and what was done to get it."""

    jpeg: bytes
    height: int
    width: int
    how: How


def prepare(source: bytes | Image.Image | np.ndarray, side: int | None, quality: int, reencode: bool) -> Prepared:
    """The stored form of one image: a three-component upright JPEG whose longer side is at most `side` pixels.

    source    file contents, a Pillow image, or u8 / u16 / bool [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]
    quality   of what is encoded here (4:2:0, or 4:4:4 up to 64 pixels); `reencode` encodes even what could pass

    Transparent pixels are laid on white; 16-bit values are divided by 257; the first frame of an animation counts.
    Raises InputError with the reason if the image is empty, corrupt, truncated, huge or no image at all.
    """
    if isinstance(source, np.ndarray):
        return _encode(_from_array(source), side, quality)
    if isinstance(source, Image.Image):
        return _encode(_upright(_rgb(source), _orientation(source)), side, quality)
    image, orientation = _open(source)
    is_jpeg = image.format in ("JPEG", "MPO")
    if is_jpeg and source.rfind(b"\xff\xd9") < 0:
        raise InputError("truncated JPEG: no end marker")
    if not is_jpeg or image.mode not in ("RGB", "L"):
        return _encode(_upright(_rgb(image), orientation), side, quality)
    pixels = decode(np.frombuffer(source, np.uint8), image.height, image.width)
    if pixels is None:
        raise InputError("corrupt or truncated JPEG: libjpeg reports an error or a warning")
    fits = side is None or max(image.size) <= side
    if fits and not reencode and (image.format, image.mode, orientation) == ("JPEG", "RGB", 1):
        return Prepared(source, image.height, image.width, "passed through")
    return _encode(_upright(Image.fromarray(pixels), orientation), side, quality)


def _open(blob: bytes) -> tuple[Image.Image, int]:
    """The opened, not yet decoded image and its EXIF orientation, 1 to 8."""
    if not blob:
        raise InputError("empty file")
    try:
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF and the like: what matters is checked below
            image = Image.open(io.BytesIO(blob))
            orientation = _orientation(image)
    except (OSError, Image.DecompressionBombError, *_BROKEN) as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else f"{error}"
        raise InputError(f"{reason or type(error).__name__}") from None
    checked_size(*image.size)
    return image, orientation


# Pillow's readers let these out on corrupt files.
_BROKEN = (ArithmeticError, AttributeError, EOFError, LookupError, SyntaxError, TypeError, ValueError, struct.error)


def _orientation(image: Image.Image) -> int:
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in UPRIGHT else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(UPRIGHT[orientation])


def _rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image -> RGB."""
    checked_size(*image.size)
    try:
        if image.mode.startswith("I"):
            return _from_array(_sixteen_bit(np.asarray(image)))
        if image.mode == "F":
            raise InputError("floating-point pixels have no agreed white; store 8 or 16 bits")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
        return image.convert("RGB")
    except InputError:
        raise
    except (OSError, *_BROKEN) as error:
        raise InputError(f"corrupt or truncated {image.format or 'image'}: {error}") from None


def _sixteen_bit(values: np.ndarray) -> np.ndarray:
    """Pillow opens 16-bit grey as u16 or, from some formats, as i32 -> u16."""
    if values.min() < 0 or values.max() > 65535:
        raise InputError("32-bit pixels have no agreed white; store 8 or 16 bits")
    return values.astype(np.uint16)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InputError(f"expected an array [H, W], [H, W, 3] or [H, W, 4], got {list(array.shape)}")
    checked_size(array.shape[1], array.shape[0])
    if array.dtype == np.uint16:
        array = np.rint(array / 257).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype != np.uint8:
        raise InputError(f"expected u8, u16 or bool pixels, got {array.dtype}")
    return _rgb(Image.fromarray(np.ascontiguousarray(array)))


def _encode(image: Image.Image, side: int | None, quality: int) -> Prepared:
    how: How = "re-encoded"
    if side is not None and max(image.size) > side:
        how, scale = "resized", side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    out = io.BytesIO()
    chroma = "4:4:4" if max(image.size) <= SMALL_SIDE else "4:2:0"
    image.save(out, "JPEG", quality=quality, subsampling=chroma, optimize=True)
    return Prepared(out.getvalue(), image.height, image.width, how)
