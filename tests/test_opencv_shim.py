"""The header that stands in for OpenCV while FFCV is compiled: every pixel equals cv2's, in all three algorithms."""

import ctypes
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="module")
def libffcv() -> ctypes.CDLL:
    package = Path(importlib.util.find_spec("ffcv").origin).parent
    library = ctypes.CDLL(str(next(package.glob("_libffcv*.so"))))
    library.resize.argtypes = 11 * [ctypes.c_int64]
    library.resize.restype = None
    return library


def resized(libffcv: ctypes.CDLL, image: np.ndarray, box: tuple[int, int, int, int], height: int, width: int):
    """u8 [H, W, 3], box (first row, end row, first column, end column) -> u8 [height, width, 3]."""
    out = np.full((height + 1, width, 3), 77, np.uint8)  # one row more than libffcv is told of
    libffcv.resize(0, image.ctypes.data, *image.shape[:2], *box, out.ctypes.data, height, width)
    assert (out[-1] == 77).all(), "written past the end"
    return out[:-1]


def expected(image: np.ndarray, box: tuple[int, int, int, int], height: int, width: int) -> np.ndarray:
    crop = image[box[0] : box[1], box[2] : box[3]]
    return cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)


def shapes(kind: str, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(height, width) before and after."""
    low, high = np.sort(rng.integers(1, 180, (2, 2)), axis=0).tolist()
    factor = rng.integers(1, 7, 2).tolist()
    return {
        "shrink": (*high, *low),
        "shrink by whole numbers": (low[0] * factor[0], low[1] * factor[1], *low),
        "enlarge": (*low, *high),
        "enlarge by whole numbers": (*low, low[0] * factor[0], low[1] * factor[1]),
        "shrink one side and enlarge the other": (high[0], low[1], low[0], high[1]),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "shrink",
        "shrink by whole numbers",
        "enlarge",
        "enlarge by whole numbers",
        "shrink one side and enlarge the other",
    ],
)
def test_resize_equals_opencv_to_the_bit(libffcv, kind):
    rng = np.random.default_rng(20261120)
    for _ in range(150):
        h, w, height, width = shapes(kind, rng)
        image = rng.integers(0, 256, (h, w, 3), np.uint8)
        box = (0, h, 0, w)
        difference = resized(libffcv, image, box, height, width) != expected(image, box, height, width)
        assert not difference.any(), f"{(h, w)} -> {(height, width)}: {difference.sum()} values differ"


@pytest.mark.parametrize("value", [0, 1, 127, 128, 254, 255])
def test_a_flat_image_stays_flat(libffcv, value):
    image = np.full((97, 131, 3), value, np.uint8)
    for height, width in [(97, 131), (31, 17), (200, 300), (96, 130), (1, 1), (120, 40)]:
        assert (resized(libffcv, image, (0, 97, 0, 131), height, width) == value).all()


@pytest.mark.parametrize("size", [8, 32, 96, 224, 256])
def test_crops_as_in_training_equal_opencv(libffcv, size):
    rng = np.random.default_rng(size)
    image = rng.integers(0, 256, (375, 500, 3), np.uint8)
    for _ in range(30):
        top, left = int(rng.integers(0, 370)), int(rng.integers(0, 495))
        box = (top, int(rng.integers(top + 1, 376)), left, int(rng.integers(left + 1, 501)))
        assert np.array_equal(resized(libffcv, image, box, size, size), expected(image, box, size, size)), box


def test_a_smooth_image_is_not_mistaken_for_its_neighbour(libffcv):
    """The oracle can fail: a crop moved by one pixel differs."""
    image = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    ours = resized(libffcv, image, (0, 63, 0, 63), 24, 24)
    assert not np.array_equal(ours, expected(image, (1, 64, 0, 63), 24, 24))
