"""Erase one box of each image of a batch in torch, on any device, with the numba kernels' integers.

erase(images, boxes, CUTOUT_FILL)     # one colour; u64 [N] noise keys instead fill with noise
"""

import numpy as np
import torch
from torch import Tensor

from pipeline import rng
from pipeline.concurrency.transfer import to_device
from pipeline.views.erase import BASE, STEP

IMAGES = 64  # erased in one go: bounds the i64 intermediates


def erase(images: Tensor, boxes: np.ndarray, fill: tuple[int, int, int] | np.ndarray) -> Tensor:
    """Erase one box per image of u8 [N, 3, H, W], in place, on any device; returns images.

    boxes  i32 [N, 4]
    fill   one colour (RGB), or u64 [N] noise keys
    """
    pixels = images.permute(0, 2, 3, 1)
    rows = np.flatnonzero(boxes[:, 2])
    for start in range(0, len(rows), IMAGES):
        part = rows[start : start + IMAGES]
        where, corners = to_device(part, images.device), to_device(boxes[part], images.device)
        if isinstance(fill, np.ndarray):
            new = _noise(to_device(fill[part].view(np.int64), images.device), *images.shape[-2:])
        else:
            new = to_device(np.array(fill, np.uint8), images.device)
        pixels.index_copy_(
            0, where, torch.where(_inside(corners, *images.shape[-2:]), new, pixels.index_select(0, where))
        )
    return images


def _inside(boxes: Tensor, down: int, across: int) -> Tensor:
    """Mark the pixels in the boxes: i32 [m, 4] -> bool [m, H, W, 1]."""
    y, x = (torch.arange(side, device=boxes.device, dtype=torch.int32) for side in (down, across))
    top, left, height, width = (column[:, None] for column in boxes.unbind(1))
    rows, columns = (y >= top) & (y < top + height), (x >= left) & (x < left + width)
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def _noise(keys: Tensor, height: int, width: int) -> Tensor:
    """Make the noise of whole images: keys i64 [m] -> u8 [m, H, W, 3]."""
    z = rng.mix_i64(keys[:, None] + torch.arange(height * width, device=keys.device) * rng.GOLDEN_I64)
    channels = []
    for channel in range(3):
        first, second, third = ((z >> (21 * channel + 7 * i)) & 127 for i in range(3))
        total = first + second + third
        channels.append(((BASE[channel] + STEP[channel] * total) >> 16).clamp(0, 255).to(torch.uint8))
    return torch.stack(channels, -1).view(-1, height, width, 3)
