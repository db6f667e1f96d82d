"""Damage images of every kind at random, and see that `prepare` refuses or stores each of them.

python -m tests.pipeline.sources.fuzz_prepare SECONDS FIRST_SEED [ONE_MORE_SEED ...]

A seed makes the same damaged file each time (with the same Pillow). The seed at work stands in the last line of the
output, so that a crash of a decoder shows which it was. Exits with 1 on the first exception other than InputError, or
stored image that training could not decode.
"""

import faulthandler
import io
import random
import struct
import sys
import time
from functools import cache

import numpy as np
from PIL import Image, features

from pipeline.backends.libffcv import decode
from pipeline.errors import InputError
from pipeline.sources.encode import Decoding, prepare
from pipeline.sources.image_file import heic_can_be_read
from pipeline.store.jpeg_header import is_sound

KEPT = (1_002_132,)
"""Seeds that once ended in something else than a refusal or a stored image; HEIF, an extra, is last in `images`."""
EXTREMES = bytes([0, 1, 0x7F, 0x80, 0xFE, 0xFF])
MAX_PIXELS = 1_000_000  # a damaged header may claim more, and each would take a second


def main() -> None:
    faulthandler.enable()
    seconds, first, more = float(sys.argv[1]), int(sys.argv[2]), [*KEPT, *map(int, sys.argv[3:])]
    until, seed, stored = time.monotonic() + seconds, first, 0
    for kept in more:
        stored += check(kept)
    while time.monotonic() < until:
        stored += check(seed)
        seed += 1
    print(f"\n{seed - first + len(more)} files, {stored} stored")


def check(seed: int) -> bool:
    """Whether the damaged file of a seed is stored. Raises whatever `prepare` must not raise."""
    print(f"\r{seed}", end="", flush=True)
    chance = random.Random(seed)
    blob = damaged(chance)
    window = chance.choice([None, None, "auto", (0, 4095)])
    decoding = Decoding(window, chance.random() < 0.2, MAX_PIXELS)
    try:
        made = prepare(blob, chance.choice([None, 40, 500]), 90, chance.random() < 0.2, decoding)
    except InputError as error:
        if "\n" in str(error) or len(str(error)) > 500:
            raise RuntimeError(f"expected one line, got {error}") from None
        return False
    jpeg = np.frombuffer(made.data, np.uint8)
    assert decode(jpeg, made.height, made.width) is not None
    assert is_sound(jpeg, made.height, made.width)
    assert Image.open(io.BytesIO(made.data)).mode == "RGB"
    return True


def damaged(chance: random.Random) -> bytes:
    """One of the images with a few bytes set, bits flipped, parts cut out, doubled, moved or taken from another."""
    blob = bytearray(chance.choice(images()))
    for _ in range(chance.choice([1, 1, 1, 2, 3, 5, 10, 40])):
        at, length = _place(chance, len(blob)), chance.choice([1, 2, 4, 16, 100])
        match chance.randrange(8):
            case 0:
                blob[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                blob[at : at + 1] = bytes([chance.choice(EXTREMES)])
            case 2:
                blob[at : at + length] = bytes([chance.choice(EXTREMES)]) * length
            case 3 if at < len(blob):
                blob[at] ^= 1 << chance.randrange(8)
            case 4:
                del blob[at : at + length]
            case 5:
                blob[at:at] = blob[at : at + length]
            case 6:
                other = chance.choice(images())
                start = _place(chance, len(other))
                blob[at : at + length] = other[start : start + length]
            case 7 if chance.random() < 0.2:
                del blob[at:]
    return bytes(blob)


def _place(chance: random.Random, size: int) -> int:
    """Headers, which are at the beginning and at the end, are hit more often than pixels."""
    kind = chance.random()
    if kind < 0.5:
        return min(size, int(chance.expovariate(1 / 60)))
    return max(0, size - int(chance.expovariate(1 / 60))) if kind < 0.6 else chance.randrange(size + 1)


@cache
def images() -> tuple[bytes, ...]:
    """Small sound files of every kind that Pillow writes."""
    rows, columns = np.mgrid[:40, :56]
    photo = Image.fromarray(np.stack([rows * 6, columns * 4, (rows * columns) % 256], -1).astype(np.uint8))
    grey, deep = photo.convert("L"), Image.fromarray((rows * columns * 29).astype(np.uint16))
    clear, exif = photo.convert("RGBA"), Image.Exif()
    clear.putalpha(grey)
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [grey.convert("RGB"), photo.rotate(9)]}
    tall = photo.resize((200, 170))
    made = [
        (photo, "JPEG", {}), (photo, "JPEG", {"progressive": True, "exif": exif, "comment": b"c"}),
        (photo, "JPEG", {"restart_marker_blocks": 2, "subsampling": 0}), (grey, "JPEG", {}),
        (photo.convert("CMYK"), "JPEG", {}), (photo, "MPO", frames), (tall, "JPEG", {"icc_profile": bytes(300)}),
        (photo, "PNG", {"exif": exif}), (deep, "PNG", {}), (photo.quantize(64), "PNG", {"transparency": 3}),
        (clear, "PNG", {}), (grey.convert("1"), "PNG", {}), (clear, "PNG", frames), (grey.convert("LA"), "PNG", {}),
        (photo.quantize(32), "GIF", {"save_all": True, "append_images": [grey, photo.quantize(9)]}),
        (photo, "TIFF", {}), (photo, "TIFF", frames), (deep, "TIFF", {"compression": "tiff_lzw"}),
        (photo, "TIFF", {"compression": "jpeg", "exif": exif}), (clear, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}), (grey.convert("F"), "TIFF", {}),
        (tall, "TIFF", {"compression": "packbits"}), (photo, "WEBP", {"exif": exif}),
        (clear, "WEBP", {"lossless": True}), (photo, "WEBP", frames), (photo, "BMP", {}),
        (photo.quantize(9), "BMP", {}),
        (clear, "ICO", {"sizes": [(16, 16), (32, 32)]}), (clear, "ICNS", {}), (photo, "PPM", {}), (deep, "PPM", {}),
        (grey.convert("1"), "PPM", {}), (photo, "JPEG2000", {}), (clear, "JPEG2000", {"irreversible": True}),
        (photo, "TGA", {}), (photo, "PCX", {}), (photo, "SGI", {}), (photo, "DDS", {}), (photo, "QOI", {}),
        (photo, "IM", {}), (grey.convert("1"), "XBM", {}),
    ]  # fmt: skip
    found = [*map(_saved, made), _tiled(np.asarray(grey))]
    if features.check("avif"):
        found += map(_saved, [(photo, "AVIF", {"exif": exif}), (clear, "AVIF", {})])
    if heic_can_be_read():
        found += map(_saved, [(photo, "HEIF", {"exif": exif.tobytes()}), (clear, "HEIF", {})])
    return tuple(found)


def _saved(made: tuple[Image.Image, str, dict]) -> bytes:
    image, kind, options = made
    out = io.BytesIO()
    if frames := options.get("append_images"):  # copies, because an image keeps what it was last saved with
        options = options | {"append_images": [frame.copy() for frame in frames]}
    image.copy().save(out, kind, **options)
    return out.getvalue()


def _tiled(grey: np.ndarray, side: int = 32) -> bytes:
    """A TIFF in square tiles, which Pillow does not write: u8 [H, W]."""
    height, width = grey.shape
    down, across = -(-height // side), -(-width // side)
    padded = np.zeros((down * side, across * side), np.uint8)
    padded[:height, :width] = grey
    tiles = padded.reshape(down, side, across, side).swapaxes(1, 2).tobytes()
    count, after = down * across, 8 + 2 + 10 * 12 + 4
    lists = struct.pack(f"<{2 * count}I", *(after + 8 * count + side * side * i for i in range(count)),
                        *[side * side] * count)  # fmt: skip
    entries = [(256, 1, width), (257, 1, height), (258, 1, 8), (259, 1, 1), (262, 1, 1), (277, 1, 1), (322, 1, side),
               (323, 1, side), (324, count, after), (325, count, after + 4 * count)]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, 4, n, value) for tag, n, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + lists + tiles


if __name__ == "__main__":
    main()
