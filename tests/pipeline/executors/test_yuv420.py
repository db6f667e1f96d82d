"""Planes of YUV 4:2:0 become RGB as libjpeg makes it: numba, torch, and the CUDA kernel without a GPU."""

import numpy as np
import pytest
import torch

from pipeline.executors import yuv420_torch
from pipeline.executors.gpu_views import PLANES
from pipeline.executors.yuv420_numba import to_rgb
from tests.pipeline.executors import by_triton

SIZES = [(1, 1), (1, 6), (6, 1), (2, 4), (5, 4), (4, 5), (3, 3), (7, 12), (16, 16), (13, 31), (40, 33)]
SAME = """
import sys
import torch
from pipeline.executors import agreement, yuv420_torch, yuv420_triton

yuv420_triton.BLOCK = 8  # several steps a row
device = torch.device(sys.argv[1])
(ours,) = agreement.cases(device, 9)["to_rgb"](yuv420_triton.to_rgb, device)
(theirs,) = agreement.cases(device, 9)["to_rgb"](yuv420_torch.to_rgb, torch.device("cpu"))
assert ours.shape == theirs.shape and len(ours) > 500
assert torch.equal(ours.cpu(), theirs)
assert yuv420_triton.to_rgb(torch.zeros(0, dtype=torch.uint8), __import__("numpy").zeros((0, 4), "i8")).shape == (0, 3)
"""


def planes(seed: int, height: int, width: int) -> np.ndarray:
    size = height * width + 2 * ((height + 1) // 2) * ((width + 1) // 2)
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def slowly(stored: np.ndarray, height: int, width: int) -> np.ndarray:
    """By the comments of libjpeg-turbo's jdsample.c and jdcolor.c, a pixel at a time."""
    down, across = (height + 1) // 2, (width + 1) // 2
    luma = stored[: height * width].reshape(height, width)
    chroma = stored[height * width :].reshape(2, down, across).astype(int)
    out = np.empty((height, width, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            near, here = y // 2, x // 2
            far = min(max(near + (1 if y % 2 else -1), 0), down - 1)
            beside = min(max(here + (1 if x % 2 else -1), 0), across - 1)
            cb, cr = (
                (
                    9 * plane[near, here] + 3 * plane[far, here] + 3 * plane[near, beside] + plane[far, beside]
                    + (7 if x % 2 else 8)
                ) // 16 - 128
                if across > 2 else plane[near, here] - 128
                for plane in chroma
            )  # fmt: skip
            level = float(luma[y, x])
            exact = level + 1.402 * cr, level - 0.344136 * cb - 0.714136 * cr, level + 1.772 * cb
            out[y, x] = np.clip(np.floor(np.array(exact) + 0.5), 0, 255)
    return out


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_numba_and_torch_agree_and_are_what_libjpeg_documents(height, width):
    stored = planes(height * 100 + width, height, width)
    expected = slowly(stored, height, width)
    whole = np.zeros((height, width, 3), np.uint8)
    to_rgb(stored.ctypes.data, height, width, 0, 0, height, width, whole.ctypes.data)
    apart = np.abs(whole.astype(int) - expected)
    assert apart.max() <= 1  # constants of 16 bits break a tie otherwise than real numbers do
    assert (apart > 0).sum() <= max(2, 0.005 * apart.size)
    by_torch = yuv420_torch.to_rgb(torch.from_numpy(stored), np.array([[0, height, width, 0]]))
    assert np.array_equal(by_torch.numpy().reshape(height, width, 3), whole)


def test_a_part_is_that_part_and_nothing_beside_it_is_written():
    height, width, chance = 23, 30, np.random.default_rng(0)
    stored = planes(7, height, width)
    whole = np.zeros((height, width, 3), np.uint8)
    to_rgb(stored.ctypes.data, height, width, 0, 0, height, width, whole.ctypes.data)
    for _ in range(60):
        (top, bottom), (left, right) = (np.sort(chance.choice(side + 1, 2, False)) for side in (height, width))
        part = np.full((height, width, 3), 77, np.uint8)
        to_rgb(stored.ctypes.data, height, width, top, left, bottom - top, right - left, part.ctypes.data)
        assert np.array_equal(part[top:bottom, left:right], whole[top:bottom, left:right])
        part[top:bottom, left:right] = 77
        assert (part == 77).all()


def test_packed_images_do_not_depend_on_their_neighbours():
    sizes = [(5, 7), (1, 1), (8, 6)]
    each = [planes(i, *size) for i, size in enumerate(sizes)]
    places = 3 + np.cumsum([0, *map(len, each)])[:-1]  # as staging buffers begin
    areas = [height * width for height, width in sizes]
    targets = np.cumsum([0, *areas])[:-1]
    geometry = np.array([(p, *size, t) for p, size, t in zip(places, sizes, targets, strict=True)])
    assert geometry.shape == (3, len(PLANES))
    packed = yuv420_torch.to_rgb(torch.from_numpy(np.concatenate([np.zeros(3, np.uint8), *each])), geometry)
    for one, size, target in zip(each, sizes, targets, strict=True):
        alone = yuv420_torch.to_rgb(torch.from_numpy(one), np.array([[0, *size, 0]]))
        assert torch.equal(packed[target : target + len(alone)], alone)


def test_the_kernel_makes_what_torch_makes():
    by_triton.interpreted(SAME, "cpu")


@pytest.mark.gpu
def test_the_gpu_makes_what_torch_makes():
    by_triton.on_the_gpu(SAME, "cuda")


@pytest.mark.parametrize("capability", by_triton.CAPABILITIES)
def test_the_kernel_compiles_without_spilling(capability):
    from pipeline.executors import yuv420_triton

    types = {"planes": "*u8", "geometry": "*i64", "out": "*u8"}
    needs = by_triton.compiled(yuv420_triton._to_rgb, types, {"ROWS": 2, "BLOCK": 256}, capability)
    assert needs["STACK"] == needs["LOCAL"] == 0, needs
    assert needs["REG"] <= 64


def test_it_is_compiled_once_whatever_the_images():
    from pipeline.executors import yuv420_triton

    with by_triton.launching(yuv420_triton._to_rgb) as grids:
        for n, side in ((1, 8), (3, 100)):
            geometry = np.tile(np.array([[0, side, side, 0]]), (n, 1))
            yuv420_triton.to_rgb(torch.zeros(side * side * 2, dtype=torch.uint8), geometry)
        assert len(by_triton.variants(yuv420_triton._to_rgb)) == 1
    assert grids == [(1, 4, 1), (3, 50, 1)]
