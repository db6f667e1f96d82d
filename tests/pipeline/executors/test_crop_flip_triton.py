"""The CUDA kernel of the cut, without a GPU: interpreted by Triton, and compiled for the GPUs that we name."""

import numpy as np
import pytest
import torch

from pipeline.executors.gpu_views import GEOMETRY
from tests.pipeline.executors import by_triton

CUT = """
import sys
import numpy as np, torch
from pipeline.executors import crop_flip_torch, crop_flip_triton

rng = np.random.default_rng(0)
n, most = (10, 90) if sys.argv[1] == "cuda" else (5, 32)  # the interpreter would take a minute
for size in ((16, 16), (21, 14)):
    heights, widths = rng.integers(12, most, (2, n))
    places = np.concatenate([[0], np.cumsum(heights * widths)[:-1]])
    pixels = torch.from_numpy(rng.integers(0, 256, (int((heights * widths).sum()), 3), dtype=np.uint8))
    tall, wide = (rng.integers(1, side + 1) for side in (heights, widths))
    top, left = rng.integers(0, heights - tall + 1), rng.integers(0, widths - wide + 1)
    boxes = np.stack([top, left, tall, wide], 1).astype(np.int32)
    insets = (rng.integers(0, 5, (n, 4)) * (rng.random((n, 1)) < 0.5)).astype(np.int32)
    flips = rng.random(n) < 0.5
    geometry = np.concatenate([places[:, None], widths[:, None], boxes, insets, flips[:, None]], 1)
    expected = crop_flip_torch.cut(pixels, geometry, size)
    came = crop_flip_triton.cut(pixels.to(sys.argv[1]), geometry, size).cpu()
    assert came.shape == expected.shape and came.stride() == expected.stride()
    apart = (came.int() - expected.int()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() < 1e-3, apart.max()
    assert (came.int() - expected.roll(1, 3).int()).abs().max() > 50
"""


def test_the_kernel_cuts_what_torch_cuts() -> None:
    by_triton.interpreted(CUT, "cpu")


@pytest.mark.gpu
def test_the_gpu_cuts_what_torch_cuts() -> None:
    by_triton.on_the_gpu(CUT, "cuda")


@pytest.mark.parametrize("capability", by_triton.CAPABILITIES)
def test_the_kernel_compiles_without_spilling(capability: int) -> None:
    from pipeline.executors import crop_flip_triton

    types = {"pixels": "*u8", "geometry": "*i64", "out": "*u8", "rows": "i32", "columns": "i32"}
    needs = by_triton.compiled(crop_flip_triton._cut, types, {"ROWS": 2, "BLOCK": 256}, capability)
    assert needs["STACK"] == needs["LOCAL"] == 0, needs  # what does not fit into registers would go there
    assert needs["REG"] <= 64


@pytest.mark.parametrize("size", [(21, 21), (224, 224), (448, 448), (224, 112)])
def test_a_size_is_compiled_once_whatever_the_batch(size: tuple[int, int]) -> None:
    from pipeline.executors import crop_flip_triton

    with by_triton.launching(crop_flip_triton._cut) as grids:
        for n in (1, 5, 16):
            geometry = np.zeros((n, len(GEOMETRY)), np.int64)
            crop_flip_triton.cut(torch.zeros(8, 3, dtype=torch.uint8), geometry, size)
        (compiled,) = by_triton.variants(crop_flip_triton._cut)
    assert grids == [(n, -(-size[0] // 2), 1) for n in (1, 5, 16)]
    needs = by_triton.usage(compiled.kernel)
    assert needs["STACK"] == needs["LOCAL"] == 0, needs
    assert needs["REG"] <= 96


def test_another_size_would_be_seen_to_be_compiled() -> None:
    from pipeline.executors import crop_flip_triton

    with by_triton.launching(crop_flip_triton._cut):
        for size in ((21, 21), (32, 32)):
            geometry = np.zeros((2, len(GEOMETRY)), np.int64)
            crop_flip_triton.cut(torch.zeros(8, 3, dtype=torch.uint8), geometry, size)
        assert len(by_triton.variants(crop_flip_triton._cut)) == 2


def test_spilling_would_be_seen() -> None:
    from pipeline.executors import crop_flip_triton

    types = {"pixels": "*u8", "geometry": "*i64", "out": "*u8", "rows": "i32", "columns": "i32"}
    assert by_triton.compiled(crop_flip_triton._cut, types, {"ROWS": 2, "BLOCK": 256}, 90, maxnreg=24)["STACK"] > 0
