"""Turn images from the planes of a 4:2:0 JPEG into RGB by one CUDA kernel, to the bit as torch does and libjpeg-turbo.

Every pixel of an image is read by some sixteen pixels of each of its views, so it is converted once, into a buffer that
the kernels of the cuts then read, and not once for each of these. The module is imported where there is a GPU, as
Triton needs one.

    pixels = to_rgb(planes, geometry)     # u8 [pixels, 3]
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.concurrency.transfer import to_device
from pipeline.executors import yuv420_numba as constants

RED_CR, GREEN_CB = tl.constexpr(constants.RED_CR), tl.constexpr(constants.GREEN_CB)
GREEN_CR, BLUE_CB = tl.constexpr(constants.GREEN_CR), tl.constexpr(constants.BLUE_CB)
HALF, REPEATED = tl.constexpr(constants.HALF), tl.constexpr(constants.REPEATED)
ROWS, BLOCK = 2, 256  # the two rows of a sample of chroma, so many of their columns at once


def to_rgb(planes: Tensor, geometry: np.ndarray) -> Tensor:
    """Turn packed images into RGB: one launch, no host sync.

    planes    u8 [bytes]    images one after another, each as pipeline.store.file_format says of yuv420
    geometry  i64 [N, 4]    the columns that pipeline.executors.gpu_views.PLANES names
    Returns u8 [pixels, 3]: image i is [height, width, 3] from its place in pixels on.
    """
    heights, widths = geometry[:, 1], geometry[:, 2]
    out = torch.empty(int((heights * widths).sum()), 3, dtype=torch.uint8, device=planes.device)
    if len(geometry):
        grid = len(geometry), triton.cdiv(int(heights.max()), ROWS)
        _to_rgb[grid](planes, to_device(geometry, planes.device), out, ROWS=ROWS, BLOCK=BLOCK)
    return out


@triton.jit
def _enlarged(plane, near, far, here, beside, odd, across, shown):
    """The chroma of pixels: its nearest sample is at (near, here), the others in the row `far` and the column `beside`;
    rows come as the place of their first sample."""
    one, other = tl.load(plane + near + here, shown, 0), tl.load(plane + far + here, shown, 0)
    third, last = tl.load(plane + near + beside, shown, 0), tl.load(plane + far + beside, shown, 0)
    sums = 9 * one.to(tl.int32) + 3 * other.to(tl.int32) + 3 * third.to(tl.int32) + last.to(tl.int32)
    return tl.where(across > REPEATED, (sums + 8 - odd) >> 4, one.to(tl.int32)) - 128


@triton.jit
def _level(value):
    return tl.minimum(tl.maximum(value, 0), 255).to(tl.uint8)


@triton.jit
def _to_rgb(planes, geometry, out, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = geometry + tl.program_id(0).to(tl.int64) * 4
    place, height, width, target = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    y = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    down, across = (height + 1) // 2, (width + 1) // 2
    near, odd_y = y // 2, y % 2
    far = tl.minimum(tl.maximum(near + 2 * odd_y - 1, 0), down.to(tl.int32) - 1)
    luma = planes + place
    blue = luma + height * width
    red = blue + down * across
    near_row, far_row = near.to(tl.int64) * across, far.to(tl.int64) * across
    for start in range(0, tl.where(tl.program_id(1) * ROWS < height, width.to(tl.int32), 0), BLOCK):
        x = (start + tl.arange(0, BLOCK))[None, :]
        shown = (y < height) & (x < width)
        here, odd = x // 2, x % 2
        beside = tl.minimum(tl.maximum(here + 2 * odd - 1, 0), across.to(tl.int32) - 1)
        pixel = y.to(tl.int64) * width + x
        light = tl.load(luma + pixel, shown, 0).to(tl.int32)
        cb = _enlarged(blue, near_row, far_row, here, beside, odd, across, shown)
        cr = _enlarged(red, near_row, far_row, here, beside, odd, across, shown)
        pointer = out + 3 * (target + pixel)
        tl.store(pointer, _level(light + ((RED_CR * cr + HALF) >> 16)), shown)
        tl.store(pointer + 1, _level(light + ((HALF - GREEN_CB * cb - GREEN_CR * cr) >> 16)), shown)
        tl.store(pointer + 2, _level(light + ((BLUE_CB * cb + HALF) >> 16)), shown)
