"""The CUDA kernel of the cut, without a GPU: interpreted by Triton, and compiled for the GPUs that we name."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton comes with the CUDA builds of torch")

INTERPRETED = """
import numpy as np, torch
from pipeline.views import crop_flip, crop_flip_triton

rng = np.random.default_rng(0)
for size in (16, 21):
    n = 10
    heights, widths = rng.integers(12, 90, (2, n))
    places = np.concatenate([[0], np.cumsum(heights * widths)[:-1]])
    pixels = torch.from_numpy(rng.integers(0, 256, (int((heights * widths).sum()), 3), dtype=np.uint8))
    tall, wide = (rng.integers(1, side + 1) for side in (heights, widths))
    top, left = rng.integers(0, heights - tall + 1), rng.integers(0, widths - wide + 1)
    boxes = np.stack([top, left, tall, wide], 1).astype(np.int32)
    insets = (rng.integers(0, 6, (n, 4)) * (rng.random((n, 1)) < 0.5)).astype(np.int32)
    where = crop_flip.Cut(boxes, insets, rng.random(n) < 0.5)
    most = crop_flip.taps(where, size).max(0).tolist()
    tensors = [torch.from_numpy(a) for a in (boxes.astype(np.int64), insets.astype(np.int64), where.flips)]
    places, widths = torch.from_numpy(places), torch.from_numpy(widths)
    expected = crop_flip.cut(pixels, places, widths, crop_flip.CutOnDevice(*tensors, tuple(most)), size)
    geometry = torch.cat([places[:, None], widths[:, None], *tensors[:2], tensors[2][:, None]], 1)
    came = crop_flip_triton.cut(pixels, geometry, size)
    assert came.shape == expected.shape and came.stride() == expected.stride()
    apart = (came.int() - expected.int()).abs()
    assert apart.max() <= 1 and (apart > 0).float().mean() < 1e-3, apart.max()
    assert (came.int() - expected.roll(1, 3).int()).abs().max() > 50
"""


def test_the_kernel_cuts_what_torch_cuts() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("capability", [75, 80, 90, 100])
def test_the_kernel_compiles_without_spilling(capability: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pipeline.views import crop_flip_triton

    types = {"pixels": "*u8", "geometry": "*i64", "out": "*u8", "size": "i32"}
    source = ASTSource(
        crop_flip_triton._cut, types | {"ROWS": "constexpr", "BLOCK": "constexpr"}, constexprs={(4,): 2, (5,): 256}
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
    assert len(made.asm["cubin"]) > 1000
    assert ".local" not in made.asm["ptx"]  # what does not fit into registers would go there


@pytest.mark.gpu
def test_the_kernel_runs_on_the_gpu_as_interpreted() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    on_gpu = INTERPRETED.replace("crop_flip_triton.cut(pixels, geometry, size)",
                                 "crop_flip_triton.cut(pixels.cuda(), geometry.cuda(), size).cpu()")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", on_gpu], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
