"""Cut antialiased views out of packed images by one CUDA kernel: each image reads what its own crop covers.

It shows what the torch version shows, to a grey level: weights are computed in float32 where they are used, which costs
less than to read them, and sums stay in registers. The module is imported where there is a GPU, as Triton needs one.

    views = resize(pixels, geometry, (224, 224), BICUBIC)     # u8 [N, 3, 224, 224]
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.concurrency.transfer import to_device
from pipeline.executors.crop_flip_triton import launch


def resize(pixels: Tensor, geometry: np.ndarray, size: tuple[int, int], kind: int) -> Tensor:
    """Cut one view of each image out of a packed buffer: one launch, no host sync.

    pixels    u8 [pixels, 3]   images one after another, each [height, width, 3]
    geometry  i64 [N, 11]      the columns that pipeline.executors.gpu_views.FRAMED names
    size      of the views: height, width
    kind      BILINEAR or BICUBIC, of pipeline.views.crop_flip
    Returns u8 [N, 3, height, width], channels last.
    """
    n, (down, across) = len(geometry), size
    out = torch.empty(n, down, across, 3, dtype=torch.uint8, device=pixels.device)
    if n:
        grid, shape = launch(n, size)
        _resize[grid](pixels, to_device(geometry, pixels.device), out, down, across, KIND=kind, **shape)
    return out.permute(0, 3, 1, 2)


@triton.jit
def _place(at, start, extent, resized, KIND: tl.constexpr):
    """Find what each pixel `at` of a view reads on one axis: the first pixel, how many, the distance of the first from
    the centre, and how many pixels wide the filter's unit is."""
    inside = tl.abs(start + at)  # reflection about the first pixel ...
    inside = (resized - 1) - tl.abs((resized - 1) - inside)  # ... and about the last
    # the centre is whole + part: whole numbers are divided as such, or float32 would lose digits in large images
    doubled = (2 * inside + 1).to(tl.int64) * extent
    whole = doubled // (2 * resized)
    part = (doubled - whole * (2 * resized)).to(tl.float32) / (2 * resized).to(tl.float32)
    wide = tl.maximum(extent.to(tl.float32) / resized.to(tl.float32), 1.0)
    low = tl.maximum(whole + tl.floor(part - KIND * wide + 0.5).to(tl.int64), 0)
    high = tl.minimum(whole + tl.floor(part + KIND * wide + 0.5).to(tl.int64), extent)
    return low, high - low, (low - whole).to(tl.float32) - part + 0.5, wide


@triton.jit
def _filter(k, number, nearest, wide, KIND: tl.constexpr):
    """The filter, not yet normalised, at each pixel's k-th; 0 behind its last."""
    x = tl.abs(nearest + k) / wide
    if KIND == 1:
        found = tl.maximum(1.0 - x, 0.0)
    else:
        near, far = (1.5 * x - 2.5) * x * x + 1.0, (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
        found = tl.where(x < 1.0, near, tl.where(x < 2.0, far, 0.0))
    return tl.where(k < number, found, 0.0)


@triton.jit
def _level(total):
    return tl.floor(tl.minimum(tl.maximum(total + 0.5, 0.0), 255.0))


@triton.jit
def _resize(pixels, geometry, out, rows, columns, KIND: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    row = geometry + image * 11
    place, width, top, left = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    height, breadth, start_y, start_x = tl.load(row + 4), tl.load(row + 5), tl.load(row + 6), tl.load(row + 7)
    resized_y, resized_x, flip = tl.load(row + 8), tl.load(row + 9), tl.load(row + 10)
    out_y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    out_x = tl.arange(0, BLOCK)
    at_x = tl.where(flip != 0, columns - 1 - out_x, out_x)
    shown = (out_y < rows)[:, None] & (out_x < columns)[None, :]
    low_y, number_y, nearest_y, wide_y = _place(tl.minimum(out_y, rows - 1), start_y, height, resized_y, KIND)
    low_x, number_x, nearest_x, wide_x = _place(
        tl.maximum(tl.minimum(at_x, columns - 1), 0), start_x, breadth, resized_x, KIND
    )
    taps_y = (KIND * tl.maximum(height, resized_y) + resized_y - 1) // resized_y * 2 + 1
    taps_x = (KIND * tl.maximum(breadth, resized_x) + resized_x - 1) // resized_x * 2 + 1
    all_y = tl.zeros([ROWS], tl.float32)
    all_x = tl.zeros([BLOCK], tl.float32)
    for k in range(taps_y):
        all_y += _filter(k, number_y, nearest_y, wide_y, KIND)
    for k in range(taps_x):
        all_x += _filter(k, number_x, nearest_x, wide_x, KIND)
    rows_first = height - resized_y > 2 * tl.maximum(breadth - resized_x, 0)  # as Pillow 13
    outer = tl.where(rows_first, taps_x, taps_y)
    inner = tl.where(rows_first, taps_y, taps_x)
    red = tl.zeros([ROWS, BLOCK], tl.float32)
    green = tl.zeros([ROWS, BLOCK], tl.float32)
    blue = tl.zeros([ROWS, BLOCK], tl.float32)
    for second in range(outer):
        one_red = tl.zeros([ROWS, BLOCK], tl.float32)
        one_green = tl.zeros([ROWS, BLOCK], tl.float32)
        one_blue = tl.zeros([ROWS, BLOCK], tl.float32)
        for first in range(inner):
            k_y, k_x = tl.where(rows_first, first, second), tl.where(rows_first, second, first)
            y = top + tl.minimum(low_y + k_y, height - 1)
            x = left + tl.minimum(low_x + k_x, breadth - 1)
            weight_y = _filter(first, number_y, nearest_y, wide_y, KIND) / all_y
            weight_x = _filter(first, number_x, nearest_x, wide_x, KIND) / all_x
            weight = tl.where(rows_first, weight_y[:, None], weight_x[None, :])
            source = pixels + 3 * (place + y[:, None] * width + x[None, :])
            one_red += tl.load(source, shown, 0).to(tl.float32) * weight
            one_green += tl.load(source + 1, shown, 0).to(tl.float32) * weight
            one_blue += tl.load(source + 2, shown, 0).to(tl.float32) * weight
        weight_y = _filter(second, number_y, nearest_y, wide_y, KIND) / all_y
        weight_x = _filter(second, number_x, nearest_x, wide_x, KIND) / all_x
        weight = tl.where(rows_first, weight_x[None, :], weight_y[:, None])
        red += _level(one_red) * weight
        green += _level(one_green) * weight
        blue += _level(one_blue) * weight
    target = out + 3 * ((image * rows + out_y[:, None]) * columns + out_x[None, :])
    tl.store(target, _level(red).to(tl.uint8), shown)
    tl.store(target + 1, _level(green).to(tl.uint8), shown)
    tl.store(target + 2, _level(blue).to(tl.uint8), shown)
