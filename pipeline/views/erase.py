"""A rectangle of the image replaced: USB's cutout and timm's random erasing, as boxes drawn on the host.

A box is i32 (top, left, height, width); height 0 erases nothing. Executors fill it with one colour, or with noise that
is a pure function of the image's key and the pixel, the same in numba, torch and Triton.
"""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from pipeline import rng
from pipeline.concurrency.transfer import send
from pipeline.views.rand_augment_torch import CHUNK

CUTOUT_FILL = (125, 123, 114)  # USB's randaugment.py, CutoutAbs
u64 = np.uint64
_GOLDEN, _SHIFTS, _MULTIPLIERS = rng.GOLDEN, rng.SHIFTS, rng.MULTIPLIERS
_CUTOUT, _ERASING, _NOISE = 0xC07, 0xE7A5E, 0x4015E  # tags

# Noise: N(0, 1) after normalisation is mean + std · z in levels. Here z is the sum of three 7-bit uniforms (spread 64
# steps), in 16-bit fixed point; it ends at 2.98 spreads, but u8 clips the true normal at 1.8 to 2.6 of them anyway.
STEP = tuple(round(255 * std / math.sqrt(3 * (128**2 - 1) / 12) * 65536) for std in (0.229, 0.224, 0.225))
BASE = tuple(
    round((255 * mean + 0.5) * 65536 - 190.5 * step) for mean, step in zip((0.485, 0.456, 0.406), STEP, strict=True)
)


def draw_cutout(keys: np.ndarray, size: int, largest: float = 0.5) -> np.ndarray:
    """USB's cutout, always applied: boxes i32 [N, 4] of side U(0, largest) of `size` pixels (u64 [N] keys).

    As there, the centre is uniform over 1..size, the far edge is counted from the clipped near edge, and the last row
    and column are included.
    """
    side, top, left = rng.uniforms(rng.derive(keys, _CUTOUT), 3).T
    side = side * largest * size
    near = [np.floor(np.maximum(0, 1 + (size - 1) * u - side / 2)) for u in (top, left)]
    extent = [np.minimum(np.floor(corner + side), size - 1) - corner + 1 for corner in near]
    boxes = np.stack([*near, *extent], axis=1).astype(np.int32)
    return np.where(side[:, None] > 0, boxes, 0).astype(np.int32)


def draw_erasing(
    keys: np.ndarray,
    size: int,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> np.ndarray:
    """timm's RandomErasing with one box: boxes i32 [N, 4] for images of `size` pixels (u64 [N] keys).

    Area (a fraction) is uniform, aspect (height / width) log-uniform; of ten attempts the first that fits is taken.
    """
    numbers = rng.uniforms(rng.derive(keys, _ERASING), 41)
    applied, attempts = numbers[:, 0] < probability, numbers[:, 1:].reshape(-1, 10, 4)
    pixels = (area[0] + (area[1] - area[0]) * attempts[..., 0]) * size * size
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = np.exp(low + (high - low) * attempts[..., 1])
    height, width = np.rint(np.sqrt(pixels * ratio)), np.rint(np.sqrt(pixels / ratio))
    top, left = (np.floor(attempts[..., i] * (size - side + 1)) for i, side in ((2, height), (3, width)))
    fits = (height < size) & (width < size)
    first = np.argmax(fits, axis=1)[:, None, None]
    boxes = np.take_along_axis(np.stack([top, left, height, width], axis=-1), first, 1)[:, 0]
    return np.where((applied & fits.any(1))[:, None], boxes, 0).astype(np.int32)


def noise_keys(keys: np.ndarray) -> np.ndarray:
    """The keys u64 [N] of the images' noise."""
    return rng.derive(keys, _NOISE)


@njit(nogil=True, cache=True)
def erase_fill(image, box, fill):
    """Fill one box of u8 [S, S, 3] with a colour u8 [3], in place."""
    top, left, height, width = box
    red, green, blue = fill[0], fill[1], fill[2]
    for y in range(top, top + height):
        row = image[y].reshape(image.shape[1] * 3)[left * 3 :]
        for x in range(width):
            i = u64(x) * u64(3)
            row[i], row[i + u64(1)], row[i + u64(2)] = red, green, blue


@njit(nogil=True, cache=True)
def erase_noise(image, box, key):
    """Fill one box of u8 [S, S, 3] with normal noise, in place; key u64 from noise_keys."""
    top, left, height, width = box
    size = image.shape[1]
    for y in range(top, top + height):
        row = image[y].reshape(size * 3)[left * 3 :]
        first = u64(key) + u64(y * size + left + 1) * u64(_GOLDEN)
        for x in range(width):
            z = first + u64(x) * u64(_GOLDEN)
            z = (z ^ (z >> u64(_SHIFTS[0]))) * u64(_MULTIPLIERS[0])
            z = (z ^ (z >> u64(_SHIFTS[1]))) * u64(_MULTIPLIERS[1])
            z = z ^ (z >> u64(_SHIFTS[2]))
            i = u64(x) * u64(3)
            row[i] = _noise_level(z, BASE[0], STEP[0])
            row[i + u64(1)] = _noise_level(z >> u64(21), BASE[1], STEP[1])
            row[i + u64(2)] = _noise_level(z >> u64(42), BASE[2], STEP[2])


@njit(nogil=True, cache=True)
def _noise_level(bits, base, step):
    low = np.uint32(bits & u64(0x1FFFFF))
    total = np.int32((low & np.uint32(127)) + ((low >> np.uint32(7)) & np.uint32(127)) + (low >> np.uint32(14)))
    level = np.int32(np.int32(np.int32(base) + np.int32(np.int32(step) * total)) >> np.int32(16))
    return np.uint8(min(max(level, np.int32(0)), np.int32(255)))


def erase(images: Tensor, boxes: np.ndarray, fill: tuple[int, int, int] | np.ndarray) -> Tensor:
    """Erase one box per image of u8 [N, 3, S, S], in place, on any device; returns images.

    boxes  i32 [N, 4]
    fill   one colour (RGB), or u64 [N] noise keys
    """
    pixels = images.permute(0, 2, 3, 1)
    rows = np.flatnonzero(boxes[:, 2])
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        where, corners = send(part, images.device), send(boxes[part], images.device)
        if isinstance(fill, np.ndarray):
            new = _noise(send(fill[part].view(np.int64), images.device), images.shape[-1])
        else:
            new = send(np.array(fill, np.uint8), images.device)
        pixels.index_copy_(
            0, where, torch.where(_inside(corners, images.shape[-1]), new, pixels.index_select(0, where))
        )
    return images


def _inside(boxes: Tensor, size: int) -> Tensor:
    """bool [m, S, S, 1]."""
    line = torch.arange(size, device=boxes.device, dtype=torch.int32)
    top, left, height, width = (column[:, None] for column in boxes.unbind(1))
    rows, columns = (line >= top) & (line < top + height), (line >= left) & (line < left + width)
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def _noise(keys: Tensor, size: int) -> Tensor:
    """u8 [m, S, S, 3]; splitmix64 in i64, whose products wrap like those of u64."""
    z = keys[:, None] + torch.arange(1, size * size + 1, device=keys.device) * _signed(rng.GOLDEN)
    for shift, multiplier in zip(rng.SHIFTS, rng.MULTIPLIERS, strict=False):
        z = (z ^ _shift(z, shift)) * _signed(multiplier)
    z = z ^ _shift(z, rng.SHIFTS[-1])
    channels = []
    for channel in range(3):
        total = sum(((z >> (21 * channel + 7 * i)) & 127) for i in range(3))
        channels.append(((BASE[channel] + STEP[channel] * total) >> 16).clamp(0, 255).to(torch.uint8))
    return torch.stack(channels, -1).view(-1, size, size, 3)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of i64, which torch shifts arithmetically."""
    return (z >> bits) & (2 ** (64 - bits) - 1)
