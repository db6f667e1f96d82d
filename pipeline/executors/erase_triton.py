"""Erase one box of each image of a batch by one CUDA kernel, which touches no pixel outside the boxes.

The module is imported where there is a GPU, as Triton needs one.

    erase(images, boxes, CUTOUT_FILL)     # one colour; u64 [N] noise keys instead fill with noise
"""

import numpy as np
import triton
import triton.language as tl
from torch import Tensor

from pipeline import rng
from pipeline.concurrency.transfer import to_device
from pipeline.views.erase import BASE, STEP

ROWS = 2  # rows of a box that one program does
_GOLDEN = tl.constexpr(rng.GOLDEN)
_SHIFT_0, _SHIFT_1, _SHIFT_2 = map(tl.constexpr, rng.SHIFTS)
_MULTIPLIER_0, _MULTIPLIER_1 = map(tl.constexpr, rng.MULTIPLIERS)
_BASE_0, _BASE_1, _BASE_2 = map(tl.constexpr, BASE)
_STEP_0, _STEP_1, _STEP_2 = map(tl.constexpr, STEP)


def erase(images: Tensor, boxes: np.ndarray, fill: tuple[int, int, int] | np.ndarray) -> Tensor:
    """Erase one box per image of u8 [N, 3, H, W], channels-last, in place; returns images; no host sync.

    boxes  i32 [N, 4]   top, left, height, width; height 0 erases nothing
    fill   one colour (RGB), or u64 [N] noise keys
    """
    rows, (down, across) = np.flatnonzero(boxes[:, 2]), images.shape[-2:]
    if len(rows):
        noisy = isinstance(fill, np.ndarray)
        keys = fill[rows].view(np.int64) if noisy else np.zeros(len(rows), np.int64)
        choices = to_device(np.concatenate([rows[:, None], boxes[rows], keys[:, None]], 1), images.device)
        grid = len(rows), triton.cdiv(int(boxes[:, 2].max()), ROWS)
        block, colour = triton.next_power_of_2(across), (0, 0, 0) if noisy else fill
        _erase[grid](images.permute(0, 2, 3, 1), choices, down, across, *colour, NOISY=noisy, ROWS=ROWS, BLOCK=block)
    return images


@triton.jit
def _erase(
    pixels, choices, rows, columns, red, green, blue, NOISY: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = choices + tl.program_id(0).to(tl.int64) * 6
    image, top, left = tl.load(row), tl.load(row + 1).to(tl.int32), tl.load(row + 2).to(tl.int32)
    height, width = tl.load(row + 3).to(tl.int32), tl.load(row + 4).to(tl.int32)
    down, x = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    inside = (down < height)[:, None] & ((x >= left) & (x < left + width))[None, :]
    at = (top + down)[:, None] * columns + x[None, :]
    target = pixels + (image * rows * columns + at) * 3
    if NOISY:
        z = tl.load(row + 5).to(tl.uint64, bitcast=True) + (at + 1).to(tl.uint64) * _GOLDEN
        z = (z ^ (z >> _SHIFT_0)) * _MULTIPLIER_0
        z = (z ^ (z >> _SHIFT_1)) * _MULTIPLIER_1
        z = z ^ (z >> _SHIFT_2)
        tl.store(target, _noise(z, _BASE_0, _STEP_0), inside)
        tl.store(target + 1, _noise(z >> 21, _BASE_1, _STEP_1), inside)
        tl.store(target + 2, _noise(z >> 42, _BASE_2, _STEP_2), inside)
    else:
        tl.store(target, red, inside)
        tl.store(target + 1, green, inside)
        tl.store(target + 2, blue, inside)


@triton.jit
def _noise(bits, base, step):
    total = ((bits & 127) + ((bits >> 7) & 127) + ((bits >> 14) & 127)).to(tl.int32)
    return tl.minimum(tl.maximum((total * step + base) >> 16, 0), 255).to(tl.uint8)
