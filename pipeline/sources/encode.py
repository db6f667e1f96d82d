"""Make one source image into what the .beton stores: JPEG, whose compressed pixels are kept where training can decode
them, RGB, or planes of YUV 4:2:0.

prepared = prepare(Path("photo.heic").read_bytes(), side=500, quality=90, reencode=False)
prepared.data, prepared.how

A JPEG is accepted if libffcv decodes it without a warning, which refuses every truncation that Pillow refuses, and more
(tests/pipeline/sources/test_encode.py). What libjpeg merely warns of in a header, and padding before the end marker, do
not touch the pixels: such a file is encoded again. So is one whose header another back-end's check refuses.
"""

import io
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
from PIL import Image

from pipeline.backends.libffcv import decode
from pipeline.errors import InputError
from pipeline.sources.image_file import from_array, has_more_frames, open_image, orientation, turned, upright_rgb
from pipeline.sources.jpeg_segments import Stripped, strip
from pipeline.sources.levels import Span, Window
from pipeline.sources.libjpeg import complaint, only_padding
from pipeline.sources.yuv420 import planes_of_jpeg, planes_of_rgb
from pipeline.store.file_format import Store
from pipeline.store.image_size import MAX_PIXELS
from pipeline.store.jpeg_header import is_sound

How = Literal["passed through", "decoded", "re-encoded", "resized"]
"""The file's own bytes; the pixels that decoding it gives, or for yuv420 a JPEG's own planes; another JPEG, or for
yuv420 the planes of RGB, which halves the chroma; smaller."""
SMALL_SIDE = 64  # up to here halved chroma (4:2:0) would be visible: a 32-pixel image would have 16 x 16 colours


@final
@dataclass(frozen=True)
class Decoding:
    """How the pixels of a source image are read, and what is kept beside them.

    window         what is black and what is white of more than 8 bits, or "auto": the image's own extremes;
                   None is 0 and 65535, and 8 bits stay as they are in any case
    keep_metadata  keep the whole file of a JPEG that passes through: EXIF, GPS, comments, and what follows the image
    max_pixels     largest image that is decoded; that takes 8 bytes a pixel in each thread, 20 where it is transparent
    """

    window: Window | None = None
    keep_metadata: bool = False
    max_pixels: int = MAX_PIXELS


@final
@dataclass(frozen=True)
class Prepared:
    """An image ready to store, its size in pixels, what was done to get it, and the span of a source of 16 bits.

    kind      of the source: JPEG, PNG, ... as Pillow calls it, "Pillow image" or "array"
    frames    the source has more frames or pages than the first, which is what is stored
    dropped   bytes of metadata that a JPEG which passed through was without afterwards
    """

    data: bytes
    height: int
    width: int
    how: How
    span: Span | None = None
    kind: str = "JPEG"
    frames: bool = False
    dropped: int = 0


def prepare(
    source: bytes | Image.Image | np.ndarray,
    side: int | None,
    quality: int,
    reencode: bool,
    decoding: Decoding = Decoding(),
    store: Store = "jpeg",
) -> Prepared:
    """Make the stored form of one image, upright, in three colours, whose longer side is at most `side` pixels.

    source    file contents, a Pillow image, or u8 / u16 / bool [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]
    quality   of JPEG that is encoded here (4:2:0, or 4:4:4 up to 64 pixels); `reencode` encodes even what could pass
    store     what the bytes are (pipeline.store.file_format)

    Transparent pixels are laid on white; 16-bit values are divided by 257, or cut to decoding.window; the first frame
    of an animation counts. Metadata is dropped, unless decoding.keep_metadata keeps it where the file passes through.
    Raises InputError with the reason if the image is empty, corrupt, truncated, huge or no image at all.
    """
    frames = False
    if isinstance(source, np.ndarray):
        kind, (image, span) = "array", from_array(source, decoding.window, decoding.max_pixels)
    elif isinstance(source, Image.Image):
        kind, (image, span) = "Pillow image", upright_rgb(source, decoding.window, decoding.max_pixels)
    else:
        opened = open_image(source, decoding.max_pixels)
        if opened.format in ("JPEG", "MPO"):
            return _from_jpeg(source, opened, side, quality, reencode, decoding, store)
        kind, (image, span) = opened.format or "image", upright_rgb(opened, decoding.window, decoding.max_pixels)
        frames = has_more_frames(opened)
    return replace(_encode(image, side, quality, span, store), kind=kind, frames=frames)


def _from_jpeg(
    source: bytes,
    opened: Image.Image,
    side: int | None,
    quality: int,
    reencode: bool,
    decoding: Decoding,
    store: Store,
) -> Prepared:
    stripped = strip(source)
    if (stripped.width, stripped.height) != opened.size:
        raise InputError(f"corrupt JPEG: {opened.width} x {opened.height} and {stripped.width} x {stripped.height}")
    pixels = _strictly_decoded(stripped)
    if pixels is None:
        return _encode(upright_rgb(opened, None, decoding.max_pixels)[0], side, quality, store=store)
    facing = orientation(opened)
    fits = side is None or max(opened.size) <= side
    if store == "yuv420" and fits and facing == 1:
        planes = planes_of_jpeg(stripped.data, stripped.height, stripped.width)
        if planes is not None:
            return Prepared(planes, stripped.height, stripped.width, "decoded")
    if store == "jpeg" and fits and not reencode and (opened.mode, facing) == ("RGB", 1) and not stripped.repaired:
        kept = source if decoding.keep_metadata else stripped.data
        if _every_back_end_decodes(kept, stripped):
            dropped = len(source) - len(kept)
            return Prepared(kept, stripped.height, stripped.width, "passed through", dropped=dropped)
    return _encode(turned(Image.fromarray(pixels), facing), side, quality, store=store)


def _strictly_decoded(stripped: Stripped) -> np.ndarray | None:
    """A JPEG's pixels as training would decode them, u8 [H, W, 3], or None for one that is whole, but not for libffcv.

    Raises InputError with libjpeg's reason for a damaged one.
    """
    height, width = stripped.height, stripped.width
    if stripped.components != 4:
        pixels = decode(np.frombuffer(stripped.data, np.uint8), height, width)
        if pixels is not None:
            return pixels
    reason = complaint(stripped.data, height, width, stripped.components)
    if reason is not None and not only_padding(stripped.data, reason):
        raise InputError(f"corrupt or truncated JPEG: {reason}")
    return None


def _every_back_end_decodes(jpeg: bytes, stripped: Stripped) -> bool:
    """Whether the header passes the check that precedes DALI, and libffcv decodes the bytes without a warning."""
    data, height, width = np.frombuffer(jpeg, np.uint8), stripped.height, stripped.width
    if not is_sound(data, height, width):
        return False
    return jpeg == stripped.data or decode(data, height, width) is not None  # stripped.data has been decoded


def _encode(
    image: Image.Image, side: int | None, quality: int, span: Span | None = None, store: Store = "jpeg"
) -> Prepared:
    how: How = "decoded" if store == "raw" else "re-encoded"
    if side is not None and max(image.size) > side:
        how, scale = "resized", side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    if store != "jpeg":
        pixels = np.asarray(image)
        data = pixels.tobytes() if store == "raw" else planes_of_rgb(pixels)
        return Prepared(data, image.height, image.width, how, span)
    chroma = "4:4:4" if max(image.size) <= SMALL_SIDE else "4:2:0"
    try:
        jpeg = _saved(image, quality, chroma, optimize=True)
    except OSError:  # noise needs more than the memory that Pillow takes for this, by the number of pixels
        jpeg = _saved(image, quality, chroma, optimize=False)
    return Prepared(jpeg, image.height, image.width, how, span)


def _saved(image: Image.Image, quality: int, chroma: str, optimize: bool) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=chroma, optimize=optimize, comment=b"")
    return out.getvalue()
