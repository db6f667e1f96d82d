"""Boxes against torchvision's law and PIL's crops; the torch cut against a slow loop."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from pipeline import rng
from pipeline.errors import InputError
from pipeline.spec import Data, View
from pipeline.views import crop_flip

N = 4000


def keys(n: int = N) -> np.ndarray:
    return rng.keys(0, 0, np.arange(n), rng.WEAK)


def sides(height: int, width: int, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    return np.full(n, height), np.full(n, width)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 200), (40, 40)])
def test_random_resized_boxes_have_torchvisions_law(height, width):
    mine = crop_flip.draw(View(scale=(0.2, 1)), keys(), *sides(height, width), 224).boxes
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(N)])
    assert (mine[:, :2] >= 0).all()
    assert (mine[:, :2] + mine[:, 2:] <= [height, width]).all()
    for column in range(4):
        spread = theirs[:, column].std() + 1e-9
        assert abs(mine[:, column].mean() - theirs[:, column].mean()) < 5 * spread / np.sqrt(N) + 0.5
        assert abs(mine[:, column].std() - spread) < 0.06 * spread + 0.5


def test_a_shape_that_no_try_fits_is_cut_in_the_centre():
    boxes = crop_flip.draw(View(scale=(1, 1)), keys(8), *sides(400, 100, 8), 224).boxes
    assert (boxes == [(400 - 133) // 2, 0, 133, 100]).all()


def test_half_of_the_views_are_flipped_and_none_where_not_asked_for():
    flips = crop_flip.draw(View(), keys(), *sides(50, 50), 32).flips
    assert abs(flips.mean() - 0.5) < 0.03
    assert not crop_flip.draw(View(flip=False), keys(), *sides(50, 50), 32).flips.any()


def test_evaluation_cuts_the_centre_as_resize_256_and_crop_224_do():
    cut = crop_flip.draw(Data().evaluate, keys(1), *sides(512, 768, 1), 224)
    assert cut.boxes.tolist() == [[32, 160, 448, 448]]  # 256 x 384, centre at 16 and 80, times two
    assert not cut.insets.any()
    assert not cut.flips.any()


def test_padding_is_reflected_and_offsets_are_uniform():
    view = View(crop="resize_then_crop", short_side=1.0, padding=2, flip=False)
    cut = crop_flip.draw(view, keys(), *sides(32, 32), 16)
    starts = cut.boxes[:, 0] // 2 - cut.insets[:, 0]  # where the view begins in the resized image
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2]
    assert counts.min() > 0.8 * N / 5
    assert (cut.boxes[:, 2] == 2 * (16 - cut.insets[:, 0] - cut.insets[:, 2])).all()


@pytest.mark.parametrize("view", [View(crop="centre", short_side=0.9), View(crop="resize_then_crop", padding=16)])
def test_views_that_cannot_be_cut_are_refused(view):
    with pytest.raises(InputError, match="short_side"):
        crop_flip.draw(view, keys(2), *sides(32, 32, 2), 16)


def on_device(cut: crop_flip.Cut, size: int = 16) -> crop_flip.CutOnDevice:
    boxes, insets = (torch.from_numpy(array.astype(np.int64)) for array in (cut.boxes, cut.insets))
    return crop_flip.CutOnDevice(
        boxes, insets, torch.from_numpy(cut.flips), tuple(crop_flip.taps(cut, size).max(0).tolist())
    )


def test_the_torch_cut_of_whole_pixels_is_a_crop_with_reflection_and_flip():
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    view = View(crop="resize_then_crop", short_side=1.0, padding=3)
    cut = crop_flip.draw(view, keys(6), *sides(16, 16, 6), 16)
    offsets = torch.arange(6) * 16 * 16
    got = crop_flip.cut(torch.from_numpy(images.reshape(-1, 3)), offsets, torch.full((6,), 16), on_device(cut), 16)
    for i, image in enumerate(images):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
        top, left = (cut.boxes[i, axis] - cut.insets[i, axis] + 3 for axis in (0, 1))
        expected = padded[top : top + 16, left : left + 16]
        expected = expected[:, ::-1] if cut.flips[i] else expected
        assert np.array_equal(got[i].permute(1, 2, 0).numpy(), expected)


def test_the_torch_cut_of_a_halved_image_is_the_mean_of_four_pixels():
    image = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)
    cut = crop_flip.Cut(np.array([[0, 0, 32, 32]], np.int32), np.zeros((1, 4), np.int32), np.zeros(1, bool))
    got = crop_flip.cut(
        torch.from_numpy(image.reshape(-1, 3)), torch.zeros(1).long(), torch.tensor([32]), on_device(cut), 16
    )
    slow = np.floor(image[0].reshape(16, 2, 16, 2, 3).astype(float).mean((1, 3)) + 0.5)
    assert np.array_equal(got[0].permute(1, 2, 0).numpy(), slow)


@pytest.mark.parametrize(("height", "width"), [(37, 51), (16, 16), (9, 11), (150, 333)])
def test_the_torch_cut_is_opencvs_area_filter(height, width):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the oracle")
    image = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    cut = crop_flip.Cut(np.array([[0, 0, height, width]], np.int32), np.zeros((1, 4), np.int32), np.zeros(1, bool))
    pixels, start = torch.from_numpy(image.reshape(-1, 3)), torch.zeros(1).long()
    got = crop_flip.cut(pixels, start, torch.tensor([width]), on_device(cut), 16)[0].permute(1, 2, 0).numpy()
    expected = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA)
    assert abs(got.astype(int) - expected).max() <= 1
