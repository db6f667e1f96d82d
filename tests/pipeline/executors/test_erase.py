"""Boxes of cutout and random erasing against USB and timm; what numba and torch fill them with."""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from timm.data.random_erasing import RandomErasing

from pipeline import rng
from pipeline.executors.erase_numba import erase_fill, erase_noise
from pipeline.executors.erase_torch import erase as erase_by_torch
from pipeline.views import erase

SIZE = HEIGHT, WIDTH = 40, 31


def keys(n: int) -> np.ndarray:
    return rng.keys(0, 0, np.arange(n), rng.STRONG)


def grey(n: int) -> np.ndarray:
    return np.full((n, *SIZE, 3), 7, np.uint8)


def by_torch(images: np.ndarray, boxes: np.ndarray, fill: tuple[int, int, int] | np.ndarray) -> np.ndarray:
    batch = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    assert erase_by_torch(batch, boxes, fill) is batch
    return batch.permute(0, 2, 3, 1).numpy()


def usb_cutout(side: float, x: float, y: float) -> np.ndarray:
    """The arithmetic of USB's CutoutAbs, drawn by Pillow."""
    left, top = int(max(0, x - side / 2)), int(max(0, y - side / 2))
    image = Image.fromarray(grey(1)[0])
    corners = (left, top, min(WIDTH, left + side), min(HEIGHT, top + side))
    ImageDraw.Draw(image).rectangle(corners, erase.CUTOUT_FILL)
    return np.asarray(image)


def test_cutout_erases_what_usb_erases_with_both_executors():
    boxes = erase.draw_cutout(keys(60), SIZE)
    got = by_torch(grey(60), boxes, erase.CUTOUT_FILL)
    numbers = rng.uniforms(rng.derive(keys(60), erase._CUTOUT), 3)
    for image, box, (side, y, x) in zip(got, boxes, numbers, strict=True):
        np.testing.assert_array_equal(image, usb_cutout(side * WIDTH / 2, 1 + (WIDTH - 1) * x, 1 + (HEIGHT - 1) * y))
        numba = grey(1)[0]
        erase_fill(numba, box, np.array(erase.CUTOUT_FILL, np.uint8))
        np.testing.assert_array_equal(numba, image)


def test_erasing_boxes_are_distributed_like_timms():
    random.seed(0)
    theirs, transform = [], RandomErasing(0.25, device="cpu")
    for _ in range(4000):
        hole = (transform(torch.ones(1, 64, 48)) == 0)[0]
        rows, columns = hole.any(1).nonzero(), hole.any(0).nonzero()
        if len(rows):
            theirs.append([int(rows[0]), int(columns[0]), len(rows), len(columns)])
    boxes = erase.draw_erasing(keys(40_000), (64, 48))
    ours = boxes[boxes[:, 2] > 0]
    assert len(ours) / 40_000 == pytest.approx(len(theirs) / 4000, abs=0.03)
    assert ours.min() >= 0
    assert (ours[:, :2] + ours[:, 2:]).max(0).tolist() <= [64, 48]
    levels = np.linspace(0.05, 0.95, 7)
    np.testing.assert_allclose(np.quantile(ours, levels, axis=0), np.quantile(theirs, levels, axis=0), atol=4)


def test_noise_is_the_same_in_numba_and_torch_and_depends_on_key_and_pixel_alone():
    boxes, noise = erase.draw_erasing(keys(40), SIZE, probability=1), erase.noise_keys(keys(40))
    boxes[5] = 0
    batch = by_torch(grey(40), boxes, noise)
    one_by_one = grey(40)
    for image, box, key in zip(one_by_one, boxes, noise, strict=True):
        erase_noise(image, box, key)
    np.testing.assert_array_equal(batch, one_by_one)
    assert (batch[5] == 7).all()
    order = np.arange(40)[::-3]
    np.testing.assert_array_equal(by_torch(grey(len(order)), boxes[order], noise[order]), batch[order])
    for image, (top, left, height, width) in zip(batch, boxes, strict=True):
        outside = np.ones(SIZE, bool)
        outside[top : top + height, left : left + width] = False
        assert (image[outside] == 7).all()
    whole = by_torch(grey(1), np.array([[0, 0, *SIZE]], np.int32), noise[:1])[0]
    top, left, height, width = boxes[0]
    part = np.s_[top : top + height, left : left + width]
    np.testing.assert_array_equal(batch[0][part], whole[part])


@pytest.mark.gpu
def test_a_gpu_draws_the_same_noise():
    boxes, noise = erase.draw_erasing(keys(40), SIZE, probability=1), erase.noise_keys(keys(40))
    on_gpu = erase_by_torch(torch.from_numpy(grey(40)).cuda().permute(0, 3, 1, 2), boxes, noise)
    np.testing.assert_array_equal(on_gpu.permute(0, 2, 3, 1).cpu().numpy(), by_torch(grey(40), boxes, noise))


def test_noise_looks_like_the_clipped_normal_that_timm_draws():
    n = 60
    box = np.tile(np.array([[0, 0, *SIZE]], np.int32), (n, 1))
    got = by_torch(grey(n), box, erase.noise_keys(keys(n))).reshape(-1, 3)
    normal = np.random.default_rng(0).normal(size=(len(got), 3))
    mean, spread = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])
    theirs = np.rint(mean + spread * normal).clip(0, 255)
    levels = np.linspace(0.02, 0.98, 25)
    np.testing.assert_allclose(np.quantile(got, levels, axis=0), np.quantile(theirs, levels, axis=0), atol=6)
    np.testing.assert_allclose(got.mean(0), theirs.mean(0), atol=1)
    np.testing.assert_allclose(got.std(0), theirs.std(0), atol=1)
    neighbours = np.corrcoef(got[:-1].T, got[1:].T)
    assert np.abs(neighbours[np.triu_indices(6, 1)]).max() < 0.02
