"""Headers that a decoder may be shown: every whole one, and none that is cut, overwritten or of another image."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.backends.libffcv import decode
from pipeline.store.jpeg_header import check, is_sound, plain_size

HEIGHT, WIDTH = 40, 56


def jpeg(mode: str = "RGB", **options) -> np.ndarray:
    image, out = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)), io.BytesIO()
    image.convert(mode).save(out, "JPEG", **options)
    return np.frombuffer(out.getvalue(), np.uint8).copy()


def segment(data: np.ndarray, marker: int) -> int:
    """Where a marker is."""
    return next(i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] == marker)


KINDS = [
    {},
    {"mode": "L"},
    {"subsampling": 0},
    {"subsampling": 1},
    {"progressive": True},
    {"optimize": True},
    {"comment": b"by hand"},
    {"exif": Image.Exif().tobytes() + b"\0" * 40},
    {"restart_marker_blocks": 2},
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_pillow_writes_is_sound(kind):
    assert is_sound(jpeg(**kind), HEIGHT, WIDTH)


def test_every_header_that_is_cut_is_not():
    data = jpeg()
    scan = segment(data, 0xDA)
    for n in range(scan):
        assert not is_sound(data[:n], HEIGHT, WIDTH)


def test_another_images_size_is_not():
    for height, width in ((HEIGHT + 1, WIDTH), (HEIGHT, WIDTH - 1), (WIDTH, HEIGHT)):
        assert not is_sound(jpeg(), height, width)


@pytest.mark.parametrize(("marker", "at", "value"), [
    (0xD8, 0, 0),        # no start
    (0xC0, 1, 0xC9),     # arithmetic coding: not what the converter keeps
    (0xC0, 4, 12),       # bits
    (0xC0, 9, 4),        # components
    (0xC0, 11, 0),       # sampling of the first
    (0xC0, 3, 18),       # length
    (0xC4, 2, 255),      # a table that ends beyond the file
    (0xDA, 4, 4),        # components in the scan
    (0xDB, 1, 0),        # no marker
])  # fmt: skip
def test_a_byte_that_matters_is_missed(marker, at, value):
    data = jpeg()
    data[segment(data, marker) + at] = value
    assert not is_sound(data, HEIGHT, WIDTH)


def test_a_header_of_zeros_or_noise_is_not():
    data = jpeg()
    for fill in (0, 255):
        data[2:300] = fill
        assert not is_sound(data, HEIGHT, WIDTH)
    noise = np.random.default_rng(1).integers(0, 256, (200, 600), np.uint8)
    assert not any(is_sound(each, HEIGHT, WIDTH) for each in noise)
    assert not is_sound(np.empty(0, np.uint8), HEIGHT, WIDTH)


def test_a_file_is_checked_image_by_image():
    one, other = jpeg(), jpeg("L")
    data = np.concatenate([one, other, one])
    offsets, sizes = np.array([0, len(one), len(one) + len(other)]), np.array([len(one), len(other), len(one)])
    heights, widths, errors = np.full(3, HEIGHT), np.array([WIDTH, WIDTH, WIDTH + 1]), np.full(3, 9, np.int32)
    check(0, 3, data, offsets, sizes, heights, widths, errors)
    assert errors.tolist() == [0, 0, 1]


@pytest.mark.parametrize(("marker", "at", "value"), [
    (0xE0, 9, 2),        # major version of JFIF
    (0xDA, 12, 0),       # last coefficient of a sequential scan
    (0xDA, 11, 1),       # first coefficient
    (0xDA, 13, 1),       # successive approximation
])  # fmt: skip
def test_a_value_that_libjpeg_warns_of_is_not_sound(marker, at, value):
    data = jpeg()
    data[segment(data, marker) + at] = value
    assert decode(data, HEIGHT, WIDTH) is None
    assert not is_sound(data, HEIGHT, WIDTH)
    assert plain_size(data) is None


def test_a_colour_transform_of_adobe_counts_where_jfif_does_not_decide():
    data = jpeg(keep_rgb=True)
    transform = segment(data, 0xEE) + 4 + 11
    for value, sound in ((0, True), (1, True), (2, False), (9, False)):
        data[transform] = value
        assert (decode(data, HEIGHT, WIDTH) is not None) == sound
        assert is_sound(data, HEIGHT, WIDTH) == sound
    with_jfif = jpeg()
    both = np.concatenate([with_jfif[:20], data[2 : transform + 1], with_jfif[20:]])
    assert decode(both, HEIGHT, WIDTH) is not None
    assert is_sound(both, HEIGHT, WIDTH)


def test_a_frame_without_width_or_height_has_no_size():
    for at in (5, 7):
        data = jpeg()
        data[segment(data, 0xC0) + at : segment(data, 0xC0) + at + 2] = 0
        assert plain_size(data) is None
