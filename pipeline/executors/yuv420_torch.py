"""Turn images from the planes of a 4:2:0 JPEG into RGB in torch, on any device: libjpeg-turbo's pixels to the bit, and
the reference of the Triton kernel.

pixels = to_rgb(planes, geometry)     # u8 [pixels, 3]
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.executors.yuv420_numba import BLUE_CB, GREEN_CB, GREEN_CR, HALF, RED_CR, REPEATED


def to_rgb(planes: Tensor, geometry: np.ndarray) -> Tensor:
    """Turn packed images into RGB, without a host sync.

    planes    u8 [bytes]    images one after another, each as pipeline.store.file_format says of yuv420
    geometry  i64 [N, 4]    the columns that pipeline.executors.gpu_views.PLANES names
    Returns u8 [pixels, 3]: image i is [height, width, 3] from its place in pixels on.
    """
    pixels = int((geometry[:, 1] * geometry[:, 2]).sum())
    out = torch.empty(pixels, 3, dtype=torch.uint8, device=planes.device)
    for place, height, width, target in geometry.tolist():
        down, across = (height + 1) // 2, (width + 1) // 2
        sizes = height * width, down * across, down * across
        luma, blue, red = planes[place : place + sum(sizes)].int().split(sizes)
        cb, cr = (_enlarge(each.view(down, across))[:height, :width] - 128 for each in (blue, red))
        changes = (
            (RED_CR * cr + HALF) >> 16,
            (HALF - GREEN_CB * cb - GREEN_CR * cr) >> 16,
            (BLUE_CB * cb + HALF) >> 16,
        )
        image = (luma.view(height, width, 1) + torch.stack(changes, -1)).clamp_(0, 255)
        out[target : target + height * width] = image.view(-1, 3).to(torch.uint8)
    return out


def _enlarge(chroma: Tensor) -> Tensor:
    """Enlarge i32 [h, w] to twice its height and width, as libjpeg's h2v2_fancy_upsample does."""
    if chroma.shape[1] <= REPEATED:
        return chroma.repeat_interleave(2, 0).repeat_interleave(2, 1)
    above, below = torch.cat([chroma[:1], chroma[:-1]]), torch.cat([chroma[1:], chroma[-1:]])
    rows = torch.stack([3 * chroma + above, 3 * chroma + below], 1).flatten(0, 1)
    left, right = torch.cat([rows[:, :1], rows[:, :-1]], 1), torch.cat([rows[:, 1:], rows[:, -1:]], 1)
    return torch.stack([(3 * rows + left + 8) >> 4, (3 * rows + right + 7) >> 4], 2).flatten(1, 2)
