import io
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.backends.libffcv import decode
from pipeline.errors import InputError
from pipeline.sources.encode import prepare


def photo(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    return (np.stack([rows, columns, 0.5 + 0.5 * np.sin(9 * rows * columns)], -1) * 255).astype(np.uint8)


def stored(image: Image.Image | np.ndarray, kind: str = "JPEG", **options) -> bytes:
    out = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(out, kind, **options)
    return out.getvalue()


def pixels(prepared) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(prepared.data)))


def refused(blob: bytes) -> bool:
    try:
        prepare(blob, None, 90, False)
    except InputError:
        return True
    return False


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}, {"quality": 30}])
def test_a_fitting_rgb_jpeg_keeps_its_bytes(options):
    blob = stored(photo(90, 120), **options)
    kept = prepare(blob, 120, 90, False)
    assert (kept.data, kept.height, kept.width, kept.how) == (blob, 90, 120, "passed through")
    more = prepare(blob + b"\0\0trailing", 120, 90, False)
    assert (more.data, more.how, more.dropped) == (blob, "passed through", 10)


def test_reencode_and_a_smaller_side_encode_again():
    blob = stored(photo(90, 120))
    assert prepare(blob, 120, 90, True).how == "re-encoded"
    small = prepare(blob, 60, 90, False)
    assert (small.height, small.width, small.how) == (45, 60, "resized")
    expected = Image.open(io.BytesIO(blob)).resize((60, 45), Image.Resampling.BICUBIC)
    assert np.abs(pixels(small).astype(float) - np.asarray(expected)).mean() < 3


def test_a_very_long_image_keeps_at_least_one_row():
    assert prepare(photo(2, 900), 100, 90, False).height == 1


@pytest.mark.parametrize("orientation", range(10))
def test_orientation_agrees_with_pillow(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    blob = stored(photo(48, 96), exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(blob))))
    came = prepare(blob, None, 95, False)
    assert (came.how == "passed through") == (orientation in (0, 1, 9))
    assert pixels(came).shape == expected.shape
    assert np.abs(pixels(came).astype(float) - expected).mean() < 2
    image = Image.open(io.BytesIO(blob))
    assert pixels(prepare(image, None, 95, False)).shape == expected.shape


@pytest.mark.parametrize("mode", ["L", "CMYK", "YCbCr"])
def test_jpegs_of_other_colours_become_rgb(mode):
    image = Image.fromarray(photo(90, 120)).convert(mode)
    blob = stored(image, quality=95)
    came = prepare(blob, None, 95, False)
    expected = np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))
    assert (came.how == "passed through") == (mode == "YCbCr")
    assert pixels(came).shape == (90, 120, 3)
    assert np.abs(pixels(came).astype(float) - expected).mean() < 3


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "P"), ("PNG", "1"), ("PNG", "L"), ("GIF", "P"), ("WEBP", "RGB"),
                                            ("BMP", "RGB"), ("TIFF", "RGB"), ("PPM", "RGB")])  # fmt: skip
def test_other_formats_become_jpeg(kind, mode):
    image = Image.fromarray(photo(90, 120))
    image = image.quantize(dither=Image.Dither.NONE) if mode == "P" else image.convert(mode)
    came = prepare(stored(image, kind), None, 95, False)
    assert came.how == "re-encoded"
    if mode != "1":  # dither survives no JPEG
        assert np.abs(pixels(came).astype(float) - np.asarray(image.convert("RGB"))).mean() < 6


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    for source in (
        ramp.astype(np.uint16),
        stored(ramp.astype(np.uint16), "PNG"),
        stored(ramp.astype(np.uint16), "TIFF"),
    ):
        came = pixels(prepare(source, None, 100, False))[:, :, 0]
        assert np.abs(came - ramp / 257).max() < 4


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lie_on_white(mode):
    image = Image.new(mode, (64, 64), 0)  # black, but nothing of it can be seen
    assert pixels(prepare(stored(image, "PNG"), None, 95, False)).min() > 250
    image.putalpha(255)
    assert pixels(prepare(stored(image, "PNG"), None, 95, False)).max() < 5


def test_a_palette_with_a_transparent_colour_lies_on_white():
    image = Image.new("P", (64, 64), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert pixels(prepare(stored(image, "PNG", transparency=0), None, 95, False)).min() > 250
    assert pixels(prepare(stored(image, "PNG", transparency=b"\0\xff"), None, 95, False)).min() > 250


@pytest.mark.parametrize("quality", [80, 90, 94, 100])
def test_noise_is_encoded_though_it_needs_more_memory_than_pillow_takes(quality):
    noise = np.random.default_rng(0).integers(0, 2, (500, 500, 3), np.uint8) * np.uint8(255)
    came = prepare(noise, None, quality, False)
    assert decode(np.frombuffer(came.data, np.uint8), 500, 500) is not None
    expected = Image.open(io.BytesIO(stored(noise, quality=quality, subsampling="4:2:0")))
    assert (pixels(came) == np.asarray(expected)).all()


def test_small_images_keep_full_chroma():
    sampling = {
        side: Image.open(io.BytesIO(prepare(photo(side, side), None, 90, False).data)).layer for side in (64, 65)
    }
    assert sampling[64][0][1:3] == (1, 1)
    assert sampling[65][0][1:3] == (2, 2)


@pytest.mark.parametrize("array", [photo(8, 9), photo(8, 9)[:, :, 0], photo(8, 9)[:, :, :1],
                                   np.dstack([photo(8, 9), photo(8, 9)[:, :, 0]]), np.eye(8, 9) > 0])  # fmt: skip
def test_arrays_of_every_shape_are_taken(array):
    assert pixels(prepare(array, None, 90, False)).shape == (8, 9, 3)


@pytest.mark.parametrize("array", [np.zeros((8, 9)), np.zeros((3, 8, 9), np.uint8), np.zeros(8, np.uint8),
                                   np.zeros((0, 9, 3), np.uint8), np.zeros((8, 9), np.int64)])  # fmt: skip
def test_other_arrays_are_refused(array):
    with pytest.raises(InputError, match=r"expected|pixels"):
        prepare(array, None, 90, False)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_white_are_refused(mode):
    with pytest.raises(InputError, match="no agreed white"):
        prepare(Image.new(mode, (8, 8), 70_000), None, 90, False)


@pytest.mark.parametrize("progressive", [False, True])
def test_every_truncation_of_a_jpeg_is_refused(progressive):
    blob = stored(photo(48, 64), progressive=progressive)
    assert not refused(blob)
    assert all(refused(blob[:cut]) for cut in range(len(blob)))


def test_truncated_jpegs_that_must_be_encoded_again_are_refused():
    for mode in ("L", "CMYK"):
        blob = stored(Image.fromarray(photo(48, 64)).convert(mode))
        assert not refused(blob)
        assert all(refused(blob[:cut]) for cut in [*range(0, len(blob), 20), *range(len(blob) - 20, len(blob))])


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncations_of_other_formats_are_refused_or_harmless(kind):
    blob = stored(photo(48, 64), kind)
    whole = prepare(blob, None, 95, False)
    for cut in [*range(0, len(blob), max(1, len(blob) // 200)), *range(len(blob) - 20, len(blob))]:
        assert refused(blob[:cut]) or prepare(blob[:cut], None, 95, False) == whole


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_damaged_files_end_in_an_input_error_or_a_valid_jpeg(kind, seed):
    chance = random.Random(seed)
    blob = bytearray(stored(photo(24, 32), kind))
    for _ in range(chance.randint(1, 8)):
        blob[chance.randrange(len(blob))] = chance.randrange(256)
    try:
        came = prepare(bytes(blob), 500, 90, False)
    except InputError:
        return
    assert decode(np.frombuffer(came.data, np.uint8), came.height, came.width) is not None


@pytest.mark.parametrize(
    "blob", [b"", b"not an image", b"\xff\xd8\xff\xd9", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\0" * 500]
)
def test_what_is_no_image_is_refused(blob):
    with pytest.raises(InputError) as caught:
        prepare(blob, None, 90, False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(10_000, 9_000), (65_501, 1)])
def test_huge_images_are_refused_without_a_warning(size):
    blob = stored(Image.new("1", size), "PNG")
    with pytest.raises(InputError, match="pixels"):
        prepare(blob, 500, 90, False)  # a warning would be an error here


def test_broken_exif_neither_warns_nor_refuses():
    blob = stored(photo(48, 64), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\x7f\x12\x01")
    assert prepare(blob, None, 90, False).how == "passed through"
