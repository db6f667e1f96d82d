"""Cut views out of packed images in torch, on any device: the reference of the Triton kernel, and the cut where it is
not.

views = cut(pixels, geometry, size=(224, 224))     # u8 [N, 3, 224, 224]
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.concurrency.transfer import to_device

IMAGES = 64  # cut in one go, of like reduction: bounds the float intermediates to 0.2 GB at 224 pixels


def cut(pixels: Tensor, geometry: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Cut one view of each image out of a packed buffer, without a host sync: a pixel is the mean of what it covers.

    pixels    u8 [pixels, 3]   images one after another, each [height, width, 3]
    geometry  i64 [N, 11]      the columns that pipeline.executors.gpu_views.GEOMETRY names
    size      of the views: height, width
    Returns u8 [N, 3, height, width], channels last.
    """
    taps = _taps(geometry, size)
    order = np.argsort(taps.prod(1), kind="stable")  # one large image must not cost the others its many taps
    geometry_there, taps = to_device(geometry[order], pixels.device), taps[order]
    parts = []
    for first in range(0, len(order), IMAGES):
        down, across = taps[first : first + IMAGES].max(0)
        parts.append(_cut(pixels, geometry_there[first : first + IMAGES], int(down), int(across), size))
    return torch.cat(parts)[to_device(np.argsort(order), pixels.device)]


def _taps(geometry: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Count the source pixels that one pixel of each view touches at most, down and across: i64 [N, 2]."""
    boxes, insets = geometry[:, 2:6], geometry[:, 6:10]
    inner = size - insets[:, :2] - insets[:, 2:]
    return np.ceil(boxes[:, 2:] / inner).astype(np.int64) + 1


def _cut(pixels: Tensor, geometry: Tensor, taps_down: int, taps_across: int, size: tuple[int, int]) -> Tensor:
    places, widths, boxes, insets, flips = geometry.split([1, 1, 4, 4, 1], 1)
    y, wy = _covered(boxes[:, 0], boxes[:, 2], insets[:, 0], insets[:, 2], size[0], None, taps_down)
    x, wx = _covered(boxes[:, 1], boxes[:, 3], insets[:, 1], insets[:, 3], size[1], flips[:, 0].bool(), taps_across)
    rows = places[:, :, None] + y * widths[:, :, None]
    view = torch.zeros(len(geometry), *size, 3, device=pixels.device)
    for down in range(taps_down):
        for across in range(taps_across):
            weight = wy[:, :, None, down] * wx[:, None, :, across]
            view.addcmul_(pixels[rows[:, :, None, down] + x[:, None, :, across]], weight[..., None])
    return view.add_(0.5).to(torch.uint8).permute(0, 3, 1, 2)


def _covered(
    start: Tensor, extent: Tensor, before: Tensor, after: Tensor, size: int, flips: Tensor | None, taps: int
) -> tuple[Tensor, Tensor]:
    """Find the pixels under each pixel of a view on one axis, and the share of it that each covers: i64, f32
    [N, size, taps]."""
    out = torch.arange(size, device=start.device)[None]
    if flips is not None:
        out = torch.where(flips[:, None], size - 1 - out, out)
    before, inner = before[:, None], (size - before - after)[:, None]
    inside = (out - before).abs()  # reflection about the first pixel ...
    inside = (inner - 1) - ((inner - 1) - inside).abs()  # ... and about the last
    # in units of 1 / inner pixels every number is whole, so no rounding decides which pixel is the first
    low = inside * extent[:, None]
    first = low // inner
    pixel = first[..., None] + torch.arange(taps, device=start.device)
    low, high = low[..., None], (low + extent[:, None])[..., None]
    wide = inner[..., None]
    covered = torch.minimum(high, (pixel + 1) * wide) - torch.maximum(low, pixel * wide)
    pixel = torch.minimum(pixel, extent[:, None, None] - 1) + start[:, None, None]
    return pixel, covered.clamp_(min=0) / extent[:, None, None]
