"""Decode an image of any kind with Pillow: upright, RGB, 8 bits.

image = open_image(Path("scan.tif").read_bytes(), MAX_PIXELS)
pixels, span = upright_rgb(image, window=None)

Whatever a decoder raises on a file becomes an InputError with the reason, so that one damaged file never ends a
conversion. Pillow's plugins raise exceptions of every kind on damaged files, MemoryError for a size that a damaged
header claims among them.
"""

import io
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

import numpy as np
from PIL import Image, features
from PIL.Image import Transpose

from pipeline.errors import InputError
from pipeline.sources.levels import Span, Window, to_eight_bits
from pipeline.store.image_size import MAX_PIXELS, checked_size

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
ORIENTATION = 0x0112
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
WHITE_IS_ZERO, UNSIGNED, SIGNED = 0, 1, 2
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
KINDS = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF",
         b"\0\0\0\x0cjP": "JPEG 2000 image"}  # fmt: skip
"""What files begin with that are images, whatever Pillow makes of them."""
_settings = threading.Lock()  # warning filters and Pillow's own limit of pixels belong to the process


def heic_can_be_read() -> bool:
    """Whether pillow-heif is installed, which decodes HEIC."""
    return pillow_heif is not None


def open_image(blob: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image that a file holds, its size checked, its pixels not yet decoded.

    Raises InputError if the file is empty, no image, of a kind that needs another package, or of a wrong size.
    """
    if not blob:
        raise InputError("empty file")
    with _quiet(), _rejecting("image"):
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # checked_size looks at the size below
        try:
            image = Image.open(io.BytesIO(blob), formats=_formats())
        except Image.UnidentifiedImageError:
            raise InputError(_unknown(blob)) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    checked_size(image.width, image.height, max_pixels)
    return image


def upright_rgb(
    image: Image.Image, window: Window | None, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, Span | None]:
    """Decode an image, lay it on white where it is transparent, and turn it upright; RGB, and the span of 16 bits.

    `window` is what is black and white of more than 8 bits (pipeline.sources.levels).
    """
    with _rejecting(image.format or "image"):
        coarse = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
        image.load()
        checked_size(image.width, image.height, max_pixels)  # an icon's is not what its table of contents says
        pixels, span = _rgb(image, window)
        if coarse and span is None:
            span = _coarse_span(pixels, window)
        return turned(pixels, orientation(image)), span


def from_array(
    array: np.ndarray, window: Window | None, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, Span | None]:
    """Bring an array to RGB, with the span of 16 bits.

    array   u8, u16 or bool, with a window any number: [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], opacity last
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InputError(f"expected an array [H, W], [H, W, 3] or [H, W, 4], got {list(array.shape)}")
    checked_size(array.shape[1], array.shape[0], max_pixels)
    span = None
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16 or (window is not None and array.dtype.kind in "iuf" and array.dtype != np.uint8):
        array, span = to_eight_bits(array, window)
    elif array.dtype != np.uint8:
        raise InputError(f"expected u8, u16 or bool pixels, got {array.dtype}; --window takes other numbers, too")
    return _rgb(Image.fromarray(np.ascontiguousarray(array)), None)[0], span


def decoded_copy(image: Image.Image) -> Image.Image:
    """A copy with pixels that are decoded, so that nothing which happens to the image or its file can change it."""
    with _rejecting(image.format or "image"):
        mine, facing = image.copy(), orientation(image)
    if orientation(mine) != facing:  # said by EXIF that copies do not take along
        mine.getexif()[ORIENTATION] = facing
    return mine


def has_more_frames(image: Image.Image) -> bool:
    """Whether a decoded image has frames or pages behind the first, which was decoded."""
    try:
        with _quiet():
            image.seek(1)
    except Exception:  # no second one, or none that can be found
        return False
    return True


def orientation(image: Image.Image) -> int:
    """EXIF's or XMP's orientation, 1 to 8; 1 if there is none, or none that can be read.

    It is asked for after the pixels are decoded: a plugin that turns them itself, as Pillow's for TIFF and pillow-heif
    do, has taken the tag away by then, and PNG may hold it behind the pixels.
    """
    try:
        with _quiet():
            found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # of EXIF that is broken; then nothing says that the image is turned
        return 1
    return found if found in UPRIGHT else 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as its orientation, 1 to 8, says that it is to be seen."""
    return image if orientation == 1 else image.transpose(UPRIGHT[orientation])


def _rgb(image: Image.Image, window: Window | None) -> tuple[Image.Image, Span | None]:
    """Any Pillow image -> RGB, not turned, and the span of 16-bit grey."""
    if image.mode.startswith("I") or image.mode == "F":
        values = _as_meant(image, np.asarray(image))
        grey, span = to_eight_bits(values, window)
        if isinstance(transparent := image.info.get("transparency"), int):  # of PNG: this value lies on white
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB"), span
    if (_tag(image, SAMPLE_FORMAT), _tag(image, BITS)) == (SIGNED, 8):
        raise InputError(
            "a TIFF of signed 8-bit numbers, which have no agreed white; store 8 or 16 bits without a sign"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB"), None
    return image.convert("RGB"), None


def _as_meant(image: Image.Image, values: np.ndarray) -> np.ndarray:
    """The values of grey with more than 8 bits as a TIFF's tags mean them, which Pillow reads for 8 bits alone: 32 bits
    without a sign, and white as 0."""
    bits, unsigned = _tag(image, BITS), (_tag(image, SAMPLE_FORMAT) or UNSIGNED) == UNSIGNED
    if unsigned and bits == 32 and values.dtype == np.int32:
        values = values.view(np.uint32)
    if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO:
        if not unsigned or bits not in (16, 32):
            raise InputError("a TIFF whose 0 is white, in numbers that have no agreed black; store 8 or 16 bits")
        values = (2**bits - 1 - values.astype(np.int64)).astype(values.dtype)
    return values


def _tag(image: Image.Image, tag: int) -> int | None:
    """A TIFF's number of a tag, of the first channel where there are several; None if there is none."""
    found = getattr(image, "tag_v2", {}).get(tag)
    return found[0] if isinstance(found, tuple) else found


def _coarse_span(pixels: Image.Image, window: Window | None) -> Span:
    """The span of 16-bit colours or grey with opacity, of which Pillow gives the upper 8 bits."""
    if window is not None:
        raise InputError("of 16-bit colour only 8 bits are read, too few for --window; store it as 16-bit grey")
    lows, highs = zip(*pixels.getextrema(), strict=True)
    return Span(257 * min(lows), 257 * max(highs))


@cache
def _formats() -> list[str]:
    """Pillow's formats in its own order, without EPS, which it would have Ghostscript run as a program."""
    Image.preinit()
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def _unknown(blob: bytes) -> str:
    """Why Pillow does not know what a file is."""
    if blob[4:8] == b"ftyp" and blob[8:12] in HEIC_BRANDS:
        if heic_can_be_read():
            return "corrupt or truncated HEIC image"
        return "a HEIC image, which needs pillow-heif; install it: python -m pip install pillow-heif"
    if blob[4:8] == b"ftyp" and blob[8:12] in AVIF_BRANDS and not features.check("avif"):
        return "an AVIF image, which this Pillow cannot read; install Pillow 11.3 or later"
    kind = next((name for start, name in KINDS.items() if blob.startswith(start)), None)
    return f"a {kind} that is damaged, or of a kind that cannot be read here" if kind else "not an image"


@contextmanager
def _quiet() -> Generator[None]:
    """Without warnings, of broken EXIF and the like: what matters is checked. One thread at a time."""
    with _settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _rejecting(kind: str) -> Generator[None]:
    """Turn whatever a decoder raises inside into an InputError that gives it as the reason, in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"corrupt or truncated {kind}: {reason}") from None
