"""Where a view is cut out of its image: boxes and flips drawn on the host, and the cut itself in torch.

The numba executor's cut is libffcv's area resize (pipeline/kernels.py); the torch one samples each output pixel at
2 x 2 points, the cheap limit of an area filter. They show the same crop and differ by the filter only.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline import rng
from pipeline.errors import InputError
from pipeline.spec import View

RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop, and every peer's
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
    if view.crop == "random_resized":
        boxes, insets = _random_resized(rng.derive(keys, 1), heights, widths, view.scale), None
    else:
        boxes, insets = _resize_then_crop(rng.derive(keys, 1), heights, widths, size, view)
    if insets is None:
        insets = np.zeros_like(boxes)
    flips = rng.uniforms(rng.derive(keys, 2), 1)[:, 0] < 0.5 if view.flip else np.zeros(len(keys), bool)
    return Cut(boxes, insets, flips)


def _random_resized(keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, scale: tuple[float, float]):
    """torchvision's rule: the first of ten random area and aspect pairs that fits, else the largest centre crop."""
    u = rng.uniforms(keys, 4 * TRIES).reshape(-1, TRIES, 4)
    h, w = heights[:, None], widths[:, None]
    area = h * w * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    aspect = np.exp(np.log(RATIO[0]) + (np.log(RATIO[1]) - np.log(RATIO[0])) * u[..., 1])
    height, width = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (height > 0) & (height <= h) & (width > 0) & (width <= w)
    top, left = np.floor(u[..., 2] * (h - height + 1)), np.floor(u[..., 3] * (w - width + 1))
    first = fits.argmax(1)[:, None, None]
    boxes = np.take_along_axis(np.stack([top, left, height, width], -1), first, 1)[:, 0]
    return np.where(fits.any(1)[:, None], boxes, _largest(heights, widths)).astype(np.int32)


def _largest(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    width = np.minimum(widths, np.rint(heights * RATIO[1]))
    height = np.minimum(heights, np.rint(widths / RATIO[0]))
    return np.stack([(heights - height) // 2, (widths - width) // 2, height, width], -1)


def _resize_then_crop(keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: int, view: View):
    short, padding = round(view.short_side * size), 0 if view.crop == "centre" else view.padding
    if short < size or padding >= size:
        raise InputError(
            f"a view of {size} pixels needs short_side >= 1 and padding below {size}, "
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


def cut(pixels: Tensor, offsets: Tensor, widths: Tensor, crop: "CutOnDevice", size: int) -> Tensor:
    """Cut one view of each image out of a packed buffer, without a host sync.

    pixels   u8 [bytes]   images one after another, each [height, width, 3]
    offsets  i64 [N]      where each begins
    widths   i64 [N]      pixels in its rows
    Returns u8 [N, 3, size, size], channels last.
    """
    y0, y1, wy = _taps(crop.boxes[:, 0], crop.boxes[:, 2], crop.insets[:, 0], crop.insets[:, 2], size, None)
    x0, x1, wx = _taps(crop.boxes[:, 1], crop.boxes[:, 3], crop.insets[:, 1], crop.insets[:, 3], size, crop.flips)
    row, base = 3 * widths[:, None], offsets[:, None]
    channel = torch.arange(3, device=pixels.device)

    def at(y: Tensor, x: Tensor) -> Tensor:
        return pixels[((base + y * row)[:, :, None] + 3 * x[:, None, :])[..., None] + channel].float()

    wy, wx = wy[:, :, None, None], wx[:, None, :, None]
    top = torch.lerp(at(y0, x0), at(y0, x1), wx)
    bottom = torch.lerp(at(y1, x0), at(y1, x1), wx)
    sampled = torch.lerp(top, bottom, wy).permute(0, 3, 1, 2)
    view = F.avg_pool2d(sampled, 2).add_(0.5).to(torch.uint8)
    return view.contiguous(memory_format=torch.channels_last)


class CutOnDevice(NamedTuple):
    """A Cut as tensors: boxes and insets i64 [N, 4], flips bool [N]."""

    boxes: Tensor
    insets: Tensor
    flips: Tensor


def _taps(start: Tensor, extent: Tensor, before: Tensor, after: Tensor, size: int, flips: Tensor | None):
    """Two neighbours and their blend for each of 2 * size sampling points along one axis: i64, i64, f32 [N, 2 size]."""
    out = torch.arange(size, device=start.device)[None]
    if flips is not None:
        out = torch.where(flips[:, None], size - 1 - out, out)
    before, inner = before[:, None], (size - before - after)[:, None]
    inside = (out - before).abs()  # reflection about the first pixel ...
    inside = (inner - 1) - ((inner - 1) - inside).abs()  # ... and about the last
    quarter = torch.arange(0.25, 1, 0.5, device=start.device)  # two points to a pixel
    point = (inside[:, :, None] + quarter).flatten(1) * (extent[:, None] / inner) - 0.5
    last = (extent - 1)[:, None]
    point = torch.minimum(point.clamp_(min=0), last.float())
    low = point.long()
    start = start[:, None]
    return start + low, start + torch.minimum(low + 1, last), point - low
