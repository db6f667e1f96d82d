"""Where a view is cut out of its image: boxes and flips drawn on the host, and the cut itself in torch.

The numba executor's cut is libffcv's area resize (pipeline/backends/kernels.py), the torch one the same
area filter over packed images. They show the same crop, to a grey level, wherever both axes shrink or both grow.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline import rng
from pipeline.errors import InputError
from pipeline.spec import View

RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop, and every peer's
LOG_RATIO = np.log(RATIO)
TRIES = 10


class Cut(NamedTuple):
    """boxes i32 [N, 4]: top, left, height, width in the image; insets i32 [N, 4]: top, left, bottom, right pixels
    of the view that lie outside the image and are reflected into; flips bool [N]."""

    boxes: np.ndarray
    insets: np.ndarray
    flips: np.ndarray


def draw(view: View, keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: int) -> Cut:
    """Boxes of one view for images of the given sizes (i64 [N]); `keys` u64 [N] decide everything random.

    Raises InputError where a view cannot be cut: a short side below the view's size, padding as large as the view.
    """
    box_keys, flip_keys = rng.derive(keys, (1, 2))
    if view.crop == "random_resized":
        boxes = _random_resized(box_keys, heights, widths, view.scale)
        insets = np.zeros_like(boxes)
    else:
        boxes, insets = _resize_then_crop(box_keys, heights, widths, size, view)
    flips = rng.uniforms(flip_keys, 1)[:, 0] < 0.5 if view.flip else np.zeros(len(keys), bool)
    return Cut(boxes, insets, flips)


def _random_resized(keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, scale: tuple[float, float]):
    """torchvision's rule: the first of ten random area and aspect pairs that fits, else the largest centre crop."""
    u = rng.uniforms(keys, 4 * TRIES).reshape(-1, TRIES, 4)
    h, w = heights[:, None], widths[:, None]
    area = h * w * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    aspect = np.exp(LOG_RATIO[0] + (LOG_RATIO[1] - LOG_RATIO[0]) * u[..., 1])
    height, width = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (height > 0) & (height <= h) & (width > 0) & (width <= w)
    first = np.arange(len(keys)), fits.argmax(1)
    extent, sides = np.stack([height[first], width[first]], -1), np.stack([heights, widths], -1)
    boxes = np.concatenate([np.floor(u[..., 2:][first] * (sides - extent + 1)), extent], 1)
    some = fits[first]
    if not some.all():
        boxes = np.where(some[:, None], boxes, _largest(heights, widths))
    return boxes.astype(np.int32)


def _largest(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    width = np.minimum(widths, np.rint(heights * RATIO[1]))
    height = np.minimum(heights, np.rint(widths / RATIO[0]))
    return np.stack([(heights - height) // 2, (widths - width) // 2, height, width], -1)


def _resize_then_crop(keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: int, view: View):
    short, padding = round(view.short_side * size), 0 if view.crop == "centre" else view.padding
    if short < size or 2 * padding >= size:
        raise InputError(
            f"a view of {size} pixels needs short_side >= 1 and padding below half of it, "
            f"got short_side {view.short_side:g} and padding {padding}"
        )
    scale = np.minimum(heights, widths) / short
    sides = np.stack([heights, widths], -1)
    resized = np.maximum(np.rint(sides / scale[:, None]), size)
    if view.crop == "centre":
        start = np.rint((resized - size) / 2)
    else:
        u = rng.uniforms(keys, 2)
        start = np.floor(u * (resized + 2 * padding - size + 1)) - padding
    before, after = np.maximum(-start, 0), np.maximum(start + size - resized, 0)
    low = np.rint((start + before) * sides / resized)
    high = np.rint((start + size - after) * sides / resized)
    boxes = np.concatenate([low, np.maximum(high - low, 1)], -1).astype(np.int32)
    return boxes, np.concatenate([before, after], -1).astype(np.int32)


class CutOnDevice(NamedTuple):
    """A Cut as tensors: boxes and insets i64 [N, 4], flips bool [N]; taps: most pixels under one, down and across."""

    boxes: Tensor
    insets: Tensor
    flips: Tensor
    taps: tuple[int, int]


def taps(cut: Cut, size: int) -> np.ndarray:
    """Most source pixels that one pixel of each view of `size` touches, down and across: i64 [N, 2], on the host."""
    inner = size - cut.insets[:, :2] - cut.insets[:, 2:]
    return np.ceil(cut.boxes[:, 2:] / inner).astype(np.int64) + 1


def cut(pixels: Tensor, offsets: Tensor, widths: Tensor, crop: CutOnDevice, size: int) -> Tensor:
    """Cut one view of each image out of a packed buffer, without a host sync: each pixel the mean of what it covers.

    pixels   u8 [pixels, 3]   images one after another, each [height, width, 3]
    offsets  i64 [N]          the pixel at which each begins
    widths   i64 [N]          pixels in its rows
    Returns u8 [N, 3, size, size], channels last.
    """
    boxes, insets = crop.boxes, crop.insets
    y, wy = _covered(boxes[:, 0], boxes[:, 2], insets[:, 0], insets[:, 2], size, None, crop.taps[0])
    x, wx = _covered(boxes[:, 1], boxes[:, 3], insets[:, 1], insets[:, 3], size, crop.flips, crop.taps[1])
    rows = offsets[:, None, None] + y * widths[:, None, None]
    view = torch.zeros(len(offsets), size, size, 3, device=pixels.device)
    for down in range(crop.taps[0]):
        for across in range(crop.taps[1]):
            weight = wy[:, :, None, down] * wx[:, None, :, across]
            view.addcmul_(pixels[rows[:, :, None, down] + x[:, None, :, across]], weight[..., None])
    return view.add_(0.5).to(torch.uint8).permute(0, 3, 1, 2)


def _covered(
    start: Tensor, extent: Tensor, before: Tensor, after: Tensor, size: int, flips: Tensor | None, taps: int
) -> tuple[Tensor, Tensor]:
    """The pixels under each pixel of a view on one axis, and how much of it each covers: i64, f32 [N, size, taps]."""
    out = torch.arange(size, device=start.device)[None]
    if flips is not None:
        out = torch.where(flips[:, None], size - 1 - out, out)
    before, inner = before[:, None], (size - before - after)[:, None]
    inside = (out - before).abs()  # reflection about the first pixel ...
    inside = (inner - 1) - ((inner - 1) - inside).abs()  # ... and about the last
    # in units of 1 / inner pixels everything is whole, so no rounding decides which pixel is the first
    low = inside * extent[:, None]
    first = low // inner
    pixel = first[..., None] + torch.arange(taps, device=start.device)
    low, high = low[..., None], (low + extent[:, None])[..., None]
    wide = inner[..., None]
    covered = torch.minimum(high, (pixel + 1) * wide) - torch.maximum(low, pixel * wide)
    pixel = torch.minimum(pixel, extent[:, None, None] - 1) + start[:, None, None]
    return pixel, covered.clamp_(min=0) / extent[:, None, None]
