"""The CUDA kernels of RandAugment and erasing, without a GPU: they give the bits that torch gives."""

import numpy as np
import pytest
import torch

from pipeline.views import rand_augment as ra
from tests.pipeline.executors import by_triton

AUGMENTED = """
import sys
import numpy as np, torch
from pipeline.executors import rand_augment_torch, rand_augment_triton
from pipeline.views import rand_augment as ra
from tests.pipeline.executors.test_rand_augment import FILL, SIZE, drawn_args, keys, pictures

rand_augment_triton.ROWS, rand_augment_triton.COUNTED = 16, 512  # fewer programs: the interpreter takes them one by one
each = len(ra.NAMES)
single = ra.Ops(np.repeat(np.arange(each, dtype=np.int8), 4)[:, None],
                np.concatenate([drawn_args(op, 4) for op in range(each)])[:, None])
for plan, nearest in ((single, False), (ra.draw("usb", keys(12), SIZE), True), (ra.draw("timm", keys(8), SIZE), False)):
    images = torch.from_numpy(pictures()[np.arange(len(plan.ops)) % 4]).permute(0, 3, 1, 2)
    before = images.clone()
    expected = rand_augment_torch.apply_ops(images, plan, nearest=nearest, fill=FILL)
    came = rand_augment_triton.apply_ops(images.to(sys.argv[1]), plan, nearest=nearest, fill=FILL).cpu()
    wrong = (came != expected).flatten(1).any(1).numpy()
    assert not wrong.any(), [[ra.NAMES[op] for op in ops] for ops in plan.ops[wrong]]
    assert came.stride() == expected.stride() and torch.equal(images, before)
    assert (came != before).flatten(1).any(1).float().mean() > 0.5
nothing = ra.Ops(np.zeros((4, 2), np.int8), np.zeros((4, 2), np.float32))
images = torch.from_numpy(pictures()).permute(0, 3, 1, 2).to(sys.argv[1])
same = rand_augment_triton.apply_ops(images, nothing, nearest=True, fill=FILL)
assert torch.equal(same, images) and same.data_ptr() != images.data_ptr()
empty = ra.Ops(nothing.ops[:0], nothing.args[:0])
assert len(rand_augment_triton.apply_ops(images[:0], empty, nearest=True, fill=FILL)) == 0
"""

ERASED = """
import sys
import numpy as np, torch
from pipeline.executors import erase_torch, erase_triton
from pipeline.views import erase
from tests.pipeline.executors.test_erase import SIZE, keys

n = 6
images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, *SIZE, 3), dtype=np.uint8))
cutout, erasing = erase.draw_cutout(keys(n), SIZE), erase.draw_erasing(keys(n), SIZE, probability=0.7)
assert 0 < (erasing[:, 2] == 0).sum() < n and (cutout[:, 2] > 0).all()
for boxes, fill in ((cutout, (125, 1, 0)), (erasing, erase.noise_keys(keys(n))), (0 * cutout, (1, 2, 3))):
    expected = erase_torch.erase(images.clone().permute(0, 3, 1, 2), boxes, fill)
    batch = images.to(sys.argv[1], copy=True).permute(0, 3, 1, 2)
    assert erase_triton.erase(batch, boxes, fill) is batch
    assert torch.equal(batch.cpu(), expected)
    assert torch.equal(batch.cpu().permute(0, 2, 3, 1), images) == (not boxes.any())
"""


@pytest.mark.parametrize("script", [AUGMENTED, ERASED], ids=["augment", "erase"])
def test_the_kernels_give_the_bits_of_torch(script: str) -> None:
    by_triton.interpreted(script, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("script", [AUGMENTED, ERASED], ids=["augment", "erase"])
def test_the_gpu_gives_the_bits_of_torch(script: str) -> None:
    by_triton.on_the_gpu(script, "cuda")


@pytest.mark.parametrize("capability", by_triton.CAPABILITIES)
def test_the_kernels_compile_without_spilling(capability: int) -> None:
    from pipeline.executors import erase_triton, rand_augment_triton

    image = {"pixels": "*u8", "choices": "*i32"}
    fill = {"fill_red": "i32", "fill_green": "i32", "fill_blue": "i32"}
    tables = image | {"fixed": "*u8", "tables": "*u8", "n": "i32"}
    change = image | {"tables": "*u8", "out": "*u8", "height": "i32", "width": "i32"} | fill
    colour = {"red": "i32", "green": "i32", "blue": "i32"}
    erase = {"pixels": "*u8", "choices": "*i64", "rows": "i32", "columns": "i32"} | colour
    rows = {"ROWS": rand_augment_triton.ROWS, "BLOCK": 256}
    for kernel, types, constants in (
        (rand_augment_triton._tables, tables, {"COUNTED": rand_augment_triton.COUNTED}),
        (rand_augment_triton._change, change, {"NEAREST": True, **rows}),
        (rand_augment_triton._change, change, {"NEAREST": False, **rows}),
        (erase_triton._erase, erase, {"NOISY": True, **rows}),
        (erase_triton._erase, erase, {"NOISY": False, **rows}),
    ):
        needs = by_triton.compiled(kernel, types, constants, capability, enable_fp_fusion=False)
        assert needs["STACK"] == needs["LOCAL"] == 0, needs  # what does not fit into registers would go there
        assert needs["REG"] <= 96  # five blocks of 128 threads on a multiprocessor, at the least


@pytest.mark.parametrize(
    ("size", "fill"),
    [((21, 21), (1, 0, 16)), ((224, 224), (124, 116, 104)), ((448, 448), (0, 0, 0)), ((224, 112), (0, 0, 0))],
)
def test_a_size_is_compiled_once_whatever_the_batch(size: tuple[int, int], fill: tuple[int, int, int]) -> None:
    """Triton compiles anew for arguments that are 1 or divisible by 16: no batch size may make a run wait for that."""
    from pipeline.executors import erase_triton, rand_augment_triton

    kernels = rand_augment_triton._tables, rand_augment_triton._change, erase_triton._erase
    with by_triton.launching(*kernels) as grids:
        for n in (1, 5, 16):
            images = torch.zeros(n, *size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
            plan = ra.Ops(np.full((n, 3), ra.ROTATE, np.int8), np.full((n, 3), 9, np.float32))
            rand_augment_triton.apply_ops(images, plan, nearest=False, fill=fill)
            erase_triton.erase(images, np.tile(np.array([[1, 2, n, 8]], np.int32), (n, 1)), fill)
            assert grids == [(n, 3, 1), (n, -(-size[0] // 2), 1)] * 3 + [(n, -(-n // 2), 1)]
            grids.clear()
        compiled = [by_triton.variants(kernel) for kernel in kernels]
    assert [len(each) for each in compiled] == [1, 1, 1]
    for (each,) in compiled:
        needs = by_triton.usage(each.kernel)
        assert needs["STACK"] == needs["LOCAL"] == 0, needs
        assert needs["REG"] <= 96
        assert "fma.rn.f" not in each.asm["ptx"]
