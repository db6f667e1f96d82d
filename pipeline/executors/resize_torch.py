"""Cut antialiased views out of packed images in torch, on any device: Pillow 13's resize to the bit, and the reference
of the Triton kernel.

views = resize(pixels, geometry, (224, 224), BICUBIC)     # u8 [N, 3, 224, 224]
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.concurrency.transfer import to_device
from pipeline.views.crop_flip import BICUBIC, BITS

IMAGES = 64  # cut in one go, of like reduction: bounds the intermediates to 0.2 GB at 224 pixels


def resize(pixels: Tensor, geometry: np.ndarray, size: tuple[int, int], kind: int) -> Tensor:
    """Cut one view of each image out of a packed buffer, without a host sync.

    pixels    u8 [pixels, 3]   images one after another, each [height, width, 3]
    geometry  i64 [N, 11]      the columns that pipeline.executors.gpu_views.FRAMED names
    size      of the views: height, width
    kind      BILINEAR or BICUBIC, of pipeline.views.crop_flip
    Returns u8 [N, 3, height, width], channels last.
    """
    height, breadth, resized_height, resized_breadth = geometry[:, [4, 5, 8, 9]].T
    rows_first = height - resized_height > 2 * np.maximum(breadth - resized_breadth, 0)
    taps = np.stack([taps_of(height, resized_height, kind), taps_of(breadth, resized_breadth, kind)], 1)
    order = np.lexsort((taps.prod(1), rows_first))  # one large image must not cost the others its many taps
    parts = []
    for first in (False, True):
        chosen = order[rows_first[order] == first]
        for start in range(0, len(chosen), IMAGES):
            part = chosen[start : start + IMAGES]
            down, across = taps[part].max(0).tolist()
            parts.append(_resize(pixels, to_device(geometry[part], pixels.device), size, kind, down, across, first))
    if not parts:
        return torch.zeros(0, 3, *size, dtype=torch.uint8, device=pixels.device)
    return torch.cat(parts)[to_device(np.argsort(order), pixels.device)]


def taps_of(extent: np.ndarray, resized: np.ndarray, kind: int) -> np.ndarray:
    """Count the pixels that one pixel of a resized axis reads at most: i64, as the two arrays."""
    return -(-kind * np.maximum(extent, resized) // resized) * 2 + 1


def _resize(
    pixels: Tensor, geometry: Tensor, size: tuple[int, int], kind: int, down: int, across: int, rows_first: bool
) -> Tensor:
    place, width, top, left, height, breadth, start_y, start_x, resized_y, resized_x, flip = geometry.T[..., None]
    y, wy = _weights(height, resized_y, start_y, size[0], None, kind, down)
    x, wx = _weights(breadth, resized_x, start_x, size[1], flip.bool(), kind, across)
    rows = place[..., None] + (y + top[..., None]) * width[..., None]
    columns = x + left[..., None]

    def level(d: int, a: int) -> Tensor:
        return pixels[rows[:, :, None, d] + columns[:, None, :, a]].int()

    def sums(weights: Tensor, levels) -> Tensor:
        total = torch.full((1,), 1 << (BITS - 1), dtype=torch.int32, device=pixels.device)
        for k in range(weights.shape[-1]):
            total = total + weights[..., k, None] * levels(k)
        return (total >> BITS).clamp_(0, 255)

    wy, wx = wy[:, :, None], wx[:, None]
    if rows_first:
        view = sums(wx, lambda a: sums(wy, lambda d: level(d, a)))
    else:
        view = sums(wy, lambda d: sums(wx, lambda a: level(d, a)))
    return view.to(torch.uint8).permute(0, 3, 1, 2)


def _weights(
    extent: Tensor, resized: Tensor, start: Tensor, size: int, flips: Tensor | None, kind: int, taps: int
) -> tuple[Tensor, Tensor]:
    """Find the pixels under each pixel of a view on one axis, and their weights, 2^BITS in all: i64, i32 [N, size,
    taps]. The numbers come as i64 [N, 1]."""
    out = torch.arange(size, device=extent.device)[None]
    if flips is not None:
        out = torch.where(flips, size - 1 - out, out)
    at = (start + out).abs()  # reflection about the first pixel ...
    at = (resized - 1) - ((resized - 1) - at).abs()  # ... and about the last
    scale = extent.double() / resized
    wide = scale.clamp(min=1.0)[..., None]
    centre = ((at + 0.5) * scale)[..., None]
    low = (centre - kind * wide + 0.5).long().clamp_(min=0)
    high = torch.minimum((centre + kind * wide + 0.5).long(), extent[..., None])
    pixel = low + torch.arange(taps, device=extent.device)
    weight = torch.where(pixel < high, _filter(kind, ((pixel - centre + 0.5) * (1.0 / wide)).abs()), 0.0)
    weight = weight / weight.sum(-1, keepdim=True) * (1 << BITS)
    return torch.minimum(pixel, extent[..., None] - 1), (weight + torch.where(weight < 0, -0.5, 0.5)).int()


def _filter(kind: int, x: Tensor) -> Tensor:
    """The triangle (bilinear), or the cubic with a = -1/2 (bicubic), at x of 0 or more."""
    if kind != BICUBIC:
        return (1.0 - x).clamp_(min=0.0)
    near, far = (1.5 * x - 2.5) * x * x + 1.0, (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))
