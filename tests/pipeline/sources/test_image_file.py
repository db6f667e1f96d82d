"""Images of every kind: what is black and white of more than 8 bits, what is large, missing or damaged."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline.errors import InputError
from pipeline.sources import image_file
from pipeline.sources.encode import Decoding, prepare
from pipeline.sources.image_file import open_image, upright_rgb
from pipeline.sources.levels import Span
from tests.pipeline.sources.test_encode import photo, pixels, refused, stored


def test_twelve_bits_in_sixteen_are_seen_and_a_window_shows_them():
    scan = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    for source in (scan, stored(scan, "PNG"), stored(scan, "TIFF"), stored(scan, "TIFF", compression="tiff_lzw")):
        dark = prepare(source, None, 100, False)
        assert pixels(dark).max() <= 17
        assert (dark.span, dark.span.narrow) == (Span(0, 4095), True)
        for window in ((0, 4095), "auto"):
            shown = prepare(source, None, 100, False, Decoding(window))
            assert np.abs(pixels(shown)[:, :, 0] - scan / 4095 * 255).max() < 4
    full = prepare((scan.astype(np.int32) * 16).astype(np.uint16), None, 100, False)
    assert not full.span.narrow


def test_a_window_leaves_eight_bits_alone():
    for source in (photo(48, 64), stored(photo(48, 64), "PNG"), stored(photo(48, 64)), np.eye(48) > 0):
        assert prepare(source, None, 90, False, Decoding((0, 10))) == prepare(source, None, 90, False)
        assert prepare(source, None, 90, False).span is None


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64, np.uint32])
def test_a_window_says_what_is_white_in_any_number(dtype):
    scan = (np.linspace(0, 1, 64 * 64).reshape(64, 64) * 1000).astype(dtype)
    shown = prepare(scan, None, 100, False, Decoding((0, 1000)))
    assert np.abs(pixels(shown)[:, :, 0] - scan / 1000 * 255).max() < 4
    with pytest.raises(InputError, match="--window"):
        prepare(scan, None, 100, False)


def test_a_floating_point_image_needs_a_window():
    blob = stored(Image.fromarray(np.linspace(0, 1, 64 * 64).reshape(64, 64).astype(np.float32)), "TIFF")
    assert refused(blob)
    assert pixels(prepare(blob, None, 100, False, Decoding((0.0, 1.0)))).max() > 250


def sixteen_bit_colour(top: int) -> bytes:
    """A PNG of 16 bits a colour, which Pillow reads but does not write."""
    row = np.linspace(0, top, 64 * 3).astype(">u2").tobytes()
    out = io.BytesIO()
    out.write(b"\x89PNG\r\n\x1a\n")
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress((b"\0" + row) * 64)),
        (b"IEND", b""),
    ):  # fmt: skip
        out.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return out.getvalue()


def test_dark_colours_of_sixteen_bits_are_seen_and_a_window_is_not_passed_over():
    assert prepare(sixteen_bit_colour(4095), None, 90, False).span.narrow
    assert not prepare(sixteen_bit_colour(65_535), None, 90, False).span.narrow
    with pytest.raises(InputError, match="too few for --window"):
        prepare(sixteen_bit_colour(4095), None, 90, False, Decoding("auto"))


def test_a_larger_image_is_read_when_it_is_allowed():
    blob = stored(Image.new("1", (10_000, 9_000)), "PNG")
    with pytest.raises(InputError, match="--max-pixels takes more"):
        prepare(blob, 100, 90, False)
    assert prepare(blob, 100, 90, False, Decoding(max_pixels=10**8)).width == 100
    with pytest.raises(InputError, match="64 x 48 pixels"):
        prepare(photo(48, 64), None, 90, False, Decoding(max_pixels=48 * 64 - 1))


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def test_heic_without_its_package_is_named_with_what_is_missing(monkeypatch):
    monkeypatch.setattr(image_file, "pillow_heif", None)
    image_file._formats.cache_clear()
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    with pytest.raises(InputError, match="HEIC image, which needs pillow-heif; install it"):
        prepare(HEIC, None, 90, False)
    image_file._formats.cache_clear()


def test_heic_is_read_with_its_package_whatever_the_file_is_called():
    pytest.importorskip("pillow_heif")
    came = prepare(stored(photo(48, 64), "HEIF", quality=95), None, 95, False)
    assert np.abs(pixels(came).astype(float) - photo(48, 64)).mean() < 5
    with pytest.raises(InputError, match="corrupt or truncated"):
        prepare(HEIC, None, 90, False)


@pytest.mark.parametrize(
    "error", [RuntimeError("of a\nplugin"), KeyError("x"), MemoryError(), RecursionError(), Warning()]
)
def test_whatever_a_decoder_raises_refuses_the_one_file(error, monkeypatch):
    def fail(*_):
        raise error

    blob = stored(photo(48, 64), "PNG")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(InputError, match="corrupt or truncated PNG: ") as caught:
        prepare(blob, None, 90, False)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "__init__", fail)
    with pytest.raises(InputError):
        prepare(blob, None, 90, False)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_an_interrupt_is_no_reason_to_refuse_a_file(error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(type(error)):
        prepare(stored(photo(48, 64), "PNG"), None, 90, False)


def test_a_damaged_avif_is_refused():
    blob = bytearray(stored(photo(48, 64), "AVIF"))
    at = blob.index(b"mdat") + 4
    blob[at : at + 200] = bytes(200)
    assert refused(bytes(blob))


def test_a_program_in_postscript_is_not_run():
    blob = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(out) (w) file closefile\nshowpage\n"
    with pytest.raises(InputError, match="not an image"):
        prepare(blob, None, 90, False)


def test_a_size_of_three_numbers_is_refused():
    """Pillow's IM plugin gives as many sides as the header has."""
    header = b"Image type: RGB image\r\nImage size (x*y): 8*8*8\r\nFile size (no of images): 1\r\n"
    assert refused(header.ljust(511, b"\0") + b"\x1a" + bytes(8 * 8 * 8 * 3))


def retagged(blob: bytes, tag: int, old: int, new: int) -> bytes:
    """A little-endian TIFF with another number in a tag of one u16."""
    entry = struct.pack("<HHIH", tag, 3, 1, old)
    assert blob.count(entry) == 1
    return blob.replace(entry, struct.pack("<HHIH", tag, 3, 1, new))


RAMP = np.arange(0, 65536, 257).reshape(16, 16)


def shades(blob: bytes, window=None) -> list[int]:
    pixels = np.asarray(upright_rgb(open_image(blob), window)[0])
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0].ravel().tolist()


def test_a_tiff_whose_0_is_white_is_no_negative_in_8_or_in_16_bits():
    """The oracle is the TIFF specification: PhotometricInterpretation 0 images 0 as white."""
    eight = stored(Image.fromarray((RAMP // 257).astype(np.uint8)), "TIFF")
    deep = stored(Image.fromarray(RAMP.astype(np.uint16)), "TIFF")
    for blob in (eight, deep):
        assert shades(blob) == list(range(256))
        assert shades(retagged(blob, 262, 1, 0)) == list(range(255, -1, -1))
    assert shades(retagged(deep, 262, 1, 0), (0, 257))[:2] == [255, 255]
    with pytest.raises(InputError, match="whose 0 is white"):
        shades(retagged(stored(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), 262, 1, 0), (0, 1))


def test_32_bits_have_a_sign_where_the_tiff_says_so():
    values = (RAMP.astype(np.int64) * 65537 - 2**31).astype(np.int32)
    signed = stored(Image.fromarray(values), "TIFF")
    assert shades(signed, (-(2**31), 2**31 - 1)) == list(range(256))
    assert shades(retagged(signed, 339, 2, 1), (0, 2**32 - 1)) == [*range(128, 256), *range(128)]
    with pytest.raises(InputError, match="signed 8-bit"):
        shades(stored(Image.fromarray(np.zeros((2, 2), np.uint8)), "TIFF", tiffinfo={339: 2}))


def test_a_transparent_shade_of_16_bit_grey_lies_on_white():
    png = stored(Image.fromarray(RAMP.astype(np.uint16)), "PNG", transparency=514)
    assert shades(png) == [0, 1, 255, *range(3, 256)]


@pytest.mark.parametrize(("start", "kind"), [(b"II*\0", "TIFF"), (b"\xff\xd8\xff", "JPEG"), (b"GIF8", "GIF")])
def test_what_begins_as_an_image_and_cannot_be_read_is_called_so(start, kind):
    with pytest.raises(InputError, match=f"a {kind}.* damaged, or of a kind that cannot be read here"):
        open_image(start + bytes(60))
