"""The cut in torch against crops of whole pixels, means of four, and OpenCV's area filter."""

import numpy as np
import pytest
import torch

from pipeline import rng
from pipeline.executors.gpu_views import Packed
from pipeline.executors.gpu_views import cut as cut_packed
from pipeline.spec import View
from pipeline.views import crop_flip

SIZES = [(16, 16), (16, 8), (12, 20)]


def by_torch(images: np.ndarray, where: crop_flip.Cut, size: tuple[int, int] = (16, 16)) -> torch.Tensor:
    """Views of images u8 [N, H, W, 3]."""
    n, height, width, _ = images.shape
    places = np.arange(n) * height * width
    return cut_packed(Packed(torch.from_numpy(images.reshape(-1, 3)), places, np.full(n, width)), where, size)


@pytest.mark.parametrize("size", SIZES)
def test_the_torch_cut_of_whole_pixels_is_a_crop_with_reflection_and_flip(size):
    images = np.random.default_rng(0).integers(0, 256, (6, *size, 3), np.uint8)
    view = View(crop="resize_then_crop", short_side=1.0, padding=3)
    cut = crop_flip.draw(view, rng.keys(0, 0, np.arange(6), rng.WEAK), *(np.full(6, side) for side in size), size)
    got = by_torch(images, cut, size)
    for i, image in enumerate(images):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
        top, left = (cut.boxes[i, axis] - cut.insets[i, axis] + 3 for axis in (0, 1))
        expected = padded[top : top + size[0], left : left + size[1]]
        expected = expected[:, ::-1] if cut.flips[i] else expected
        assert np.array_equal(got[i].permute(1, 2, 0).numpy(), expected)


def test_the_torch_cut_of_a_halved_image_is_the_mean_of_four_pixels():
    image = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)
    cut = crop_flip.Cut(
        np.array([[0, 0, 32, 32]], np.int32), np.zeros((1, 4), np.int32), np.zeros(1, bool), np.zeros((1, 4), np.int32)
    )
    got = by_torch(image, cut)
    slow = np.floor(image[0].reshape(16, 2, 16, 2, 3).astype(float).mean((1, 3)) + 0.5)
    assert np.array_equal(got[0].permute(1, 2, 0).numpy(), slow)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        *((37, 51, (16, 16)), (16, 16, (16, 16)), (9, 11, (16, 16)), (150, 333, (16, 16))),
        *((37, 51, (16, 8)), (37, 51, (12, 20)), (7, 11, (12, 20)), (150, 333, (12, 20))),
    ],
)
def test_the_torch_cut_is_opencvs_area_filter(height, width, size):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the oracle")
    image = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    cut = crop_flip.Cut(
        np.array([[0, 0, height, width]], np.int32),
        np.zeros((1, 4), np.int32),
        np.zeros(1, bool),
        np.zeros((1, 4), np.int32),
    )
    got = by_torch(image[None], cut, size)[0].permute(1, 2, 0).numpy()
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    assert abs(got.astype(int) - expected).max() <= 1
