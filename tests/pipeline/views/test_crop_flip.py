"""Boxes against torchvision's law, and those of evaluation against resize and crop."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import ResizeKeepRatio
from torchvision.transforms import CenterCrop, RandomResizedCrop

from pipeline import rng
from pipeline.errors import InputError
from pipeline.spec import Data, View
from pipeline.views import crop_flip

N = 4000


def keys(n: int = N) -> np.ndarray:
    return rng.keys(0, 0, np.arange(n), rng.WEAK)


def sides(height: int, width: int, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    return np.full(n, height), np.full(n, width)


@pytest.mark.parametrize("size", [(224, 224), (224, 112), (96, 160)])
@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 200), (40, 40)])
def test_random_resized_boxes_have_torchvisions_law(height, width, size):
    """Its aspects in units of the view's, so that views are stretched as square ones are."""
    mine = crop_flip.draw(View(scale=(0.2, 1)), keys(), *sides(height, width), size).boxes
    torch.manual_seed(0)
    image, shape = torch.empty(3, height, width), size[1] / size[0]
    ratio = [3 / 4 * shape, 4 / 3 * shape]
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], ratio) for _ in range(N)])
    assert (mine[:, :2] >= 0).all()
    assert (mine[:, :2] + mine[:, 2:] <= [height, width]).all()
    for column in range(4):
        spread = theirs[:, column].std() + 1e-9
        assert abs(mine[:, column].mean() - theirs[:, column].mean()) < 5 * spread / np.sqrt(N) + 0.5
        assert abs(mine[:, column].std() - spread) < 0.06 * spread + 0.5


def test_a_shape_that_no_try_fits_is_cut_in_the_centre():
    boxes = crop_flip.draw(View(scale=(1, 1)), keys(8), *sides(400, 100, 8), (224, 224)).boxes
    assert (boxes == [(400 - 133) // 2, 0, 133, 100]).all()
    boxes = crop_flip.draw(View(scale=(1, 1)), keys(8), *sides(400, 100, 8), (112, 224)).boxes  # wide: 3/2 to 8/3
    assert (boxes == [(400 - 67) // 2, 0, 67, 100]).all()
    boxes = crop_flip.draw(View(scale=(1, 1)), keys(8), *sides(60, 120, 8), (224, 112)).boxes  # tall: 3/8 to 2/3
    assert (boxes == [0, 40, 60, 40]).all()


def test_half_of_the_views_are_flipped_and_none_where_not_asked_for():
    flips = crop_flip.draw(View(), keys(), *sides(50, 50), (32, 32)).flips
    assert abs(flips.mean() - 0.5) < 0.03
    assert not crop_flip.draw(View(flip=False), keys(), *sides(50, 50), (32, 32)).flips.any()


def test_evaluation_cuts_the_centre_as_resize_256_and_crop_224_do():
    by_area = crop_flip.draw(replace(Data().evaluate, filter="area"), keys(1), *sides(512, 768, 1), (224, 224))
    assert by_area.boxes.tolist() == [[32, 160, 448, 448]]  # 256 x 384, centre at 16 and 80, times two
    cut = crop_flip.draw(Data().evaluate, keys(1), *sides(512, 768, 1), (224, 224))
    assert cut.boxes.tolist() == [[0, 0, 512, 768]]
    assert cut.frames.tolist() == [[16, 80, 256, 384]]
    assert [cut.insets.any(), cut.flips.any(), by_area.frames.any()] == [False] * 3


@pytest.mark.parametrize("size", [(224, 112), (112, 224), (96, 160), (224, 224)])
@pytest.mark.parametrize(("height", "width"), [(512, 768), (500, 200), (300, 301), (90, 1000)])
def test_evaluation_cuts_what_timms_evaluation_shows(height, width, size):
    """timm resizes to what just covers the size / crop_pct, then crops: its centre is ours, to a pixel of the image."""
    view = View(crop="centre", short_side=1.25, flip=False)
    ((top, left, tall, wide),) = crop_flip.draw(view, keys(1), *sides(height, width, 1), size).boxes
    y, x = np.mgrid[:height, :width].astype(np.float32)
    longest = tuple(math.floor(side * 1.25) for side in size)
    resize, crop = ResizeKeepRatio(longest, interpolation="bilinear"), CenterCrop(size)
    shown = [np.asarray(crop(resize(Image.fromarray(each)))) for each in (y, x)]
    ours = (top, top + tall - 1), (left, left + wide - 1)
    for (first, last), axis, each in zip(ours, (0, 1), shown, strict=True):
        ends = each.take(0, axis).mean(), each.take(-1, axis).mean()
        step = (last - first) / each.shape[axis]  # of one pixel of the view, whose middle timm shows
        assert abs(ends[0] - first) <= step + 1
        assert abs(ends[1] - last) <= step + 1


@pytest.mark.parametrize("size", [(16, 16), (16, 12), (12, 16)])
def test_padding_is_reflected_and_offsets_are_uniform(size):
    view = View(crop="resize_then_crop", short_side=1.0, padding=2, flip=False)
    cut = crop_flip.draw(view, keys(), *sides(2 * size[0], 2 * size[1]), size)
    for axis in (0, 1):
        starts = cut.boxes[:, axis] // 2 - cut.insets[:, axis]  # where the view begins in the resized image
        values, counts = np.unique(starts, return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert counts.min() > 0.8 * N / 5
        assert (cut.boxes[:, 2 + axis] == 2 * (size[axis] - cut.insets[:, axis] - cut.insets[:, 2 + axis])).all()


@pytest.mark.parametrize("size", [(32, 32), (32, 16), (16, 32)])
@pytest.mark.parametrize("view", [View(crop="centre", short_side=0.9), View(crop="resize_then_crop", padding=8)])
def test_views_that_cannot_be_cut_are_refused(view, size):
    if size == (32, 32) and view.padding == 8:
        crop_flip.draw(view, keys(2), *sides(32, 32, 2), size)  # 8 is below half of each side
        return
    shown = "32" if size == (32, 32) else f"{size[0]} x {size[1]}"
    with pytest.raises(InputError, match=f"a view of {shown} pixels needs short_side"):
        crop_flip.draw(view, keys(2), *sides(32, 32, 2), size)
