"""Rows of docs/data.md about single image files."""

import io
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pipeline.backends.pixels import read_pixels
from pipeline.sources.image_file import heic_can_be_read
from pipeline.store.beton import Beton
from pipeline.store.sample_names import read_names
from tests.data_page.cases import Case, beside_a_good_one, options, picture, row, stored

ORIENTATION, MAKE, GPS = 0x0112, 0x010F, 0x8825


def exif(**tags: int | str) -> Image.Exif:
    found = Image.Exif()
    found.update({int(number[1:], 16): value for number, value in tags.items()})
    return found


def decoded(beton: Beton, name: str) -> np.ndarray:
    place = read_names(beton).index(name)
    return np.asarray(Image.open(io.BytesIO(bytes(beton.jpeg(place))))).astype(int)


def looks_like(name: str, expected: Image.Image, most: float = 4):
    """A check: the stored image `name` is `expected`, to a few grey levels."""

    def check(beton: Beton) -> bool:
        found, wanted = decoded(beton, name), np.asarray(expected.convert("RGB")).astype(int)
        return found.shape == wanted.shape and np.abs(found - wanted).mean() < most

    return check


def is_stored(beton: Beton, image: Image.Image) -> bool:
    """Whether the pixels of x.png are those of an image, to the bit."""
    return np.array_equal(read_pixels(beton, read_names(beton).index("x.png")), np.asarray(image))


def simple(name: str, *files: tuple[str, bytes], **more) -> None:
    """A row whose cases are these files, each beside a good one."""

    @row(name)
    def build(root: Path) -> Iterator[Case]:
        for i, (file, data) in enumerate(files):
            yield beside_a_good_one(root / str(i), file, data, **more)


def damaged(cut: int, gap: int = 0) -> bytes:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = stored(noise)
    at = len(data) // 2
    return data[:at] if not gap else data[:at] + data[at + gap :]


def header(height: int, width: int) -> bytes:
    data = bytearray(stored())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def spectral(last: int) -> bytes:
    """A JPEG whose scan says that its last coefficient is another than 63, as some phones' do."""
    data = bytearray(stored())
    at = data.index(b"\xff\xda")
    data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") - 2] = last
    return bytes(data)


def deep(high: int, kind: str = "PNG") -> bytes:
    return stored(Image.fromarray(np.linspace(0, high, 48 * 64).astype(np.uint16).reshape(48, 64)), kind)


FLOATS = stored(Image.fromarray(np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)), "TIFF")
WITH_GPS = stored(exif=exif(x010F="a maker"), comment=b"48.8583N 2.2944E")
KINDS = {"png": "PNG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP", "gif": "GIF", "ppm": "PPM", "jp2": "JPEG2000",
         "avif": "AVIF"}  # fmt: skip
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)

simple("a JPEG, in colour, upright", ("x.jpg", WITH_GPS), check=lambda beton: b"48.8583N" not in bytes(beton.data))
simple("a JPEG, with `--keep-metadata`", ("x.jpg", WITH_GPS), options=options(keep_metadata=True),
       check=lambda beton: WITH_GPS in bytes(beton.data))  # fmt: skip
simple("a JPEG with megabytes behind its end, as a motion photo", ("x.jpg", stored() + bytes(3_000_000)),
       check=lambda beton: beton.data.size < 100_000)  # fmt: skip
simple("a progressive JPEG", ("x.jpg", stored(progressive=True)))
simple(
    "a JPEG larger than `--side`", ("x.jpg", stored(picture(300, 600))), check=lambda beton: max(beton.widths[:]) == 500
)
simple("a JPEG, with `--reencode`", ("x.jpg", stored()), options=options(reencode=True))
simple("a PNG or WebP without a loss, with `--store raw`", ("x.png", stored(kind="PNG")),
       options=options(store="raw"), check=lambda beton: is_stored(beton, picture()))  # fmt: skip
simple("a JPEG, with `--store raw`", ("x.jpg", stored()), options=options(store="raw"))
simple("a JPEG of halved chroma (4:2:0), with `--store yuv420`", ("x.jpg", stored(subsampling=2)),
       options=options(store="yuv420"))  # fmt: skip
simple("any other image, with `--store yuv420`", ("x.png", stored(kind="PNG")), ("x.jpg", stored(subsampling=0)),
       options=options(store="yuv420"))  # fmt: skip
simple(
    "a JPEG that is grey", ("x.jpg", stored(picture().convert("L"))), check=looks_like("x.jpg", picture().convert("L"))
)
simple("a JPEG in CMYK", ("x.jpg", stored(picture().convert("CMYK"))), check=looks_like("x.jpg", picture()))
simple("a JPEG of which libjpeg merely warns, and the pixels are whole", ("se.jpg", spectral(0)))
simple("a JPEG that is cut short", ("x.jpg", damaged(1)), ("y.jpg", stored()[:-1]), ("z.jpg", stored()[:300]))
simple("a JPEG with damage that libjpeg notices", ("x.jpg", damaged(0, 2000)))
simple("a JPEG whose header says width 0 or height 0", ("w.jpg", header(48, 0)), ("h.jpg", header(0, 64)),
       ("wh.jpg", header(0, 0)))  # fmt: skip
simple("HEIC, without pillow-heif", *() if heic_can_be_read() else (("x.heic", HEIC), ("y.HEIC", HEIC)))
simple("16 bits of grey", ("x.png", deep(65_535)), ("x.tif", deep(65_535, "TIFF")))
simple("12 bits of grey in a file of 16", ("x.png", deep(4095)), ("x.tif", deep(4095, "TIFF")))
simple("12 bits of grey in a file of 16, with `--window auto`", ("x.png", deep(4095)), options=options(window="auto"),
       check=lambda beton: decoded(beton, "x.png").max() > 250)  # fmt: skip
WHITE_AS_0 = deep(65_535, "TIFF").replace(struct.pack("<HHIH", 262, 3, 1, 1), struct.pack("<HHIH", 262, 3, 1, 0))
simple("a TIFF of 16 bits whose 0 is white", ("x.tif", WHITE_AS_0),
       check=lambda beton: decoded(beton, "x.tif")[0].min() > 240)  # fmt: skip
simple("floating-point pixels", ("x.tif", FLOATS))
simple("floating-point pixels, with `--window 0 1`", ("x.tif", FLOATS), options=options(window=(0.0, 1.0)))
simple("an image of 1 x 1 pixels", ("x.png", stored(Image.new("RGB", (1, 1)), "PNG")))
simple("an image of more than 89 million pixels", ("x.png", stored(Image.new("1", (10_000, 9_000)), "PNG")))
simple("an image whose suffix is another image's, or that has none", ("x.png", stored()), ("x.HEIC", stored()),
       ("x.jpg_large", stored()), ("x", stored()), ("x.TXT", stored()))  # fmt: skip
simple(
    "a camera's raw file (CR2, NEF, DNG, ...)", *((f"x.{kind}", stored(kind="TIFF")) for kind in ("cr2", "NEF", "dng"))
)
simple("DICOM, JPEG XL or OpenEXR", ("x.dcm", b"x"), ("x.jxl", b"\xff\x0a"), ("x.exr", b"v/1\x01"))
simple("an empty file with an image's suffix", ("x.jpg", b""), ("x.png", b""))
simple("a text with an image's suffix", ("x.jpg", b"<html>404 not found</html>"), ("x.png", b"version https://git-lfs"))
simple("any other file", ("x.txt", b"a caption"))
simple("a hidden file", (".x.jpg", stored()))


@row("a JPEG with one of the orientations 2 to 8")
def turned_jpegs(root: Path) -> Iterator[Case]:
    for value in range(2, 9):
        data = stored(exif=exif(x0112=value))
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        yield beside_a_good_one(root / str(value), "x.jpg", data, check=looks_like("x.jpg", upright))


@row("a TIFF, PNG or WebP with one of the orientations 2 to 8")
def turned_others(root: Path) -> Iterator[Case]:
    for kind in ("tif", "png", "webp"):
        for value in range(2, 9):
            data = stored(kind=KINDS[kind], exif=exif(x0112=value))
            opened = Image.open(io.BytesIO(data))
            opened.load()  # Pillow turns a TIFF itself
            upright, name = ImageOps.exif_transpose(opened), f"x.{kind}"
            yield beside_a_good_one(root / f"{kind}{value}", name, data, check=looks_like(name, upright))


@row("PNG, WebP, TIFF, BMP, GIF, PPM, PGM, JPEG 2000 and AVIF")
def other_kinds(root: Path) -> Iterator[Case]:
    yield beside_a_good_one(root / "first", "x.png", stored(kind="PNG"), check=looks_like("x.png", picture()))
    for suffix, kind in KINDS.items():
        name = f"x.{suffix}"
        check = looks_like(name, picture(), 12)  # of a palette
        yield beside_a_good_one(root / suffix, name, stored(kind=kind), check=check)
    grey = picture().convert("L")
    yield beside_a_good_one(root / "pgm", "x.pgm", stored(grey, "PPM"), check=looks_like("x.pgm", grey))


@row("an animation, or a file of several pages")
def animations(root: Path) -> Iterator[Case]:
    for suffix in ("gif", "webp", "tif", "png"):
        data = stored(kind=KINDS[suffix], save_all=True, append_images=[picture(seed=1)])
        check = looks_like(f"x.{suffix}", picture(), 12)
        yield beside_a_good_one(root / suffix, f"x.{suffix}", data, check=check)


@row("a transparent image")
def transparent(root: Path) -> Iterator[Case]:
    clear = picture().convert("RGBA")
    clear.putalpha(0)
    data = stored(clear, "PNG")
    yield beside_a_good_one(root, "x.png", data, check=looks_like("x.png", Image.new("RGB", (64, 48), "white")))


@row("a FIFO, socket or device with an image's suffix")
def special_files(root: Path) -> Iterator[Case]:
    case = beside_a_good_one(root / "fifo", "x.jpg", None)
    os.mkfifo(root / "fifo" / "x.jpg")
    yield case
    case, before = beside_a_good_one(root / "socket", "x.jpg", None), Path.cwd()
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(root / "socket")  # a socket's path may have 108 bytes
        bound.bind("x.jpg")
        os.chdir(before)
    yield case
    case = beside_a_good_one(root / "device", "x.jpg", None)
    (root / "device" / "x.jpg").symlink_to("/dev/zero")
    yield case


@row("a link to an image elsewhere")
def link(root: Path) -> Iterator[Case]:
    case = beside_a_good_one(root / "set", "x.jpg", None)
    (root / "elsewhere").write_bytes(stored())
    (root / "set" / "x.jpg").symlink_to("../elsewhere")
    yield case


@row("a link to nothing with an image's suffix")
def dangling(root: Path) -> Iterator[Case]:
    case = beside_a_good_one(root, "x.jpg", None)
    (root / "x.jpg").symlink_to("nowhere")
    yield case


@row("a link to a folder that it lies in")
def loop(root: Path) -> Iterator[Case]:
    case = beside_a_good_one(root, "x.jpg", stored())
    (root / "loop").symlink_to(".")
    yield case._replace(about=None)


@row("a name that is no UTF-8, or has control characters")
def odd_names(root: Path) -> Iterator[Case]:
    case = beside_a_good_one(root, "caf\udce9\x1b.jpg", stored())
    yield case._replace(about="caf\\xe9\\u001b.jpg")
