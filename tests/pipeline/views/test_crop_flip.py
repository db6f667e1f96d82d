"""Boxes against torchvision's law, and those of evaluation against resize and crop."""

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
