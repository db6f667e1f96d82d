"""Cut views out of packed images by one CUDA kernel: each image reads as many pixels as its own crop covers.

The torch version gathers once for every pixel that the largest crop of its group covers, and holds each group's sums in
float32; here they stay in registers. Arithmetic and its order are the same. The module is imported where there is a
GPU, as Triton needs one.

    views = cut(pixels, geometry, size=(224, 224))     # u8 [N, 3, 224, 224]
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.concurrency.transfer import to_device


def cut(pixels: Tensor, geometry: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Cut one view of each image out of a packed buffer: one launch, no host sync.

    pixels    u8 [pixels, 3]   images one after another, each [height, width, 3]
    geometry  i64 [N, 11]      the columns that pipeline.executors.gpu_views.GEOMETRY names
    size      of the views: height, width
    Returns u8 [N, 3, height, width], channels last.
    """
    n, (down, across) = len(geometry), size
    out = torch.empty(n, down, across, 3, dtype=torch.uint8, device=pixels.device)
    if n:
        grid, shape = launch(n, size)
        _cut[grid](pixels, to_device(geometry, pixels.device), out, down, across, **shape)
    return out.permute(0, 3, 1, 2)


def launch(n: int, size: tuple[int, int]) -> tuple[tuple[int, int], dict[str, int]]:
    """The grid of programs that cut n views of a size, height and width, and the shape of each program."""
    rows, block = 2, triton.next_power_of_2(size[1])
    warps = max(4, block // 64)  # as many pixels a thread at every size
    return (n, triton.cdiv(size[0], rows)), {"ROWS": rows, "BLOCK": block, "num_warps": warps}


@triton.jit
def _covered(at, start, extent, before, after, size):
    """Find the first pixel under each pixel `at` of a view on one axis, and where that one begins, in 1 / inner
    pixels."""
    inner = size - before - after
    inside = tl.abs(at - before)  # reflection about the first pixel ...
    inside = (inner - 1) - tl.abs((inner - 1) - inside)  # ... and about the last
    low = inside * extent
    return low // inner, low, inner


@triton.jit
def _cut(pixels, geometry, out, rows, columns, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    row = geometry + image * 11
    place, width = tl.load(row), tl.load(row + 1)
    top, left = tl.load(row + 2).to(tl.int32), tl.load(row + 3).to(tl.int32)
    height, breadth = tl.load(row + 4).to(tl.int32), tl.load(row + 5).to(tl.int32)
    before_y, before_x = tl.load(row + 6).to(tl.int32), tl.load(row + 7).to(tl.int32)
    after_y, after_x = tl.load(row + 8).to(tl.int32), tl.load(row + 9).to(tl.int32)
    flip = tl.load(row + 10)
    out_y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    out_x = tl.arange(0, BLOCK)
    at_x = tl.where(flip != 0, columns - 1 - out_x, out_x)
    first_y, low_y, inner_y = _covered(out_y, top, height, before_y, after_y, rows)
    first_x, low_x, inner_x = _covered(at_x, left, breadth, before_x, after_x, columns)
    shown = (out_y < rows)[:, None] & (out_x < columns)[None, :]
    red = tl.zeros([ROWS, BLOCK], tl.float32)
    green = tl.zeros([ROWS, BLOCK], tl.float32)
    blue = tl.zeros([ROWS, BLOCK], tl.float32)
    for down in range((height + inner_y - 1) // inner_y + 1):
        y = first_y + down
        over_y = tl.minimum(low_y + height, (y + 1) * inner_y) - tl.maximum(low_y, y * inner_y)
        weight_y = tl.maximum(over_y, 0).to(tl.float32) / height.to(tl.float32)
        line = place + (tl.minimum(y, height - 1) + top).to(tl.int64) * width + left
        for across in range((breadth + inner_x - 1) // inner_x + 1):
            x = first_x + across
            over_x = tl.minimum(low_x + breadth, (x + 1) * inner_x) - tl.maximum(low_x, x * inner_x)
            weight_x = tl.maximum(over_x, 0).to(tl.float32) / breadth.to(tl.float32)
            weight = weight_y[:, None] * weight_x[None, :]
            source = pixels + 3 * (line[:, None] + tl.minimum(x, breadth - 1)[None, :])
            red += tl.load(source, shown, 0).to(tl.float32) * weight
            green += tl.load(source + 1, shown, 0).to(tl.float32) * weight
            blue += tl.load(source + 2, shown, 0).to(tl.float32) * weight
    target = out + 3 * ((image * rows + out_y[:, None]) * columns + out_x[None, :])
    tl.store(target, (red + 0.5).to(tl.uint8), shown)
    tl.store(target + 1, (green + 0.5).to(tl.uint8), shown)
    tl.store(target + 2, (blue + 0.5).to(tl.uint8), shown)
