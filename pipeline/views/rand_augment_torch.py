"""RandAugment executed on a batch by torch, on any device, with the integers and floats of the CPU kernels: bit by bit.

The host knows which image gets which operation, so each layer splits the batch into families there, and the device only
computes: nothing is read back, and no operation runs on an image that does not need it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.concurrency.transfer import send
from pipeline.views import rand_augment as ra
from pipeline.views.rand_augment_hue import divide, shift_hue
from pipeline.views.rand_augment_tables import ONE, affines, fixed_tables
from pipeline.views.rand_augment_warp import BITS, HALF

CHUNK = 64  # images of one family at a time: bounds the intermediates to about 1 GB at 224 pixels
_FIXED = (ra.INVERT, ra.POSTERIZE, ra.SOLARIZE, ra.SOLARIZE_ADD, ra.BRIGHTNESS)


def apply_ops(images: Tensor, plan: ra.Ops, *, nearest: bool, fill: tuple[int, int, int]) -> Tensor:
    """Carry out the plan's operations: u8 [N, 3, S, S] -> u8 [N, 3, S, S], new storage, channels-last.

    images   u8 [N, 3, S, S]   any storage order
    nearest  geometry reads the nearest pixel; else bilinear
    fill     RGB of what geometry brings in from outside
    """
    out = images.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    colour_outside = send(np.array(fill, np.uint8), images.device)
    for ops, args in zip(plan.ops.T, plan.args.T, strict=True):
        for family, rows in _families(ops):
            where = send(rows, images.device)
            pixels, factors = out.index_select(0, where), send(args[rows], images.device).view(-1, 1, 1, 1)
            if family == ra.GEOMETRY:
                maps = send(affines(ops[rows], args[rows], images.shape[-1]).astype(np.int32), images.device)
                pixels = _warp(pixels, maps, nearest, colour_outside)
            elif family == _FIXED:
                tables = send(fixed_tables(ops[rows], args[rows]), images.device)
                pixels = _look_up(pixels, tables[:, None].expand(-1, 3, -1))
            elif family == (ra.CONTRAST,):
                pixels = _blend(_mean_luma(pixels), pixels.float(), factors)
            elif family == (ra.AUTOCONTRAST,):
                pixels = _look_up(pixels, _autocontrast_tables(pixels))
            elif family == (ra.EQUALIZE,):
                pixels = _look_up(pixels, _equalize_tables(pixels))
            elif family == (ra.COLOUR,):
                pixels = _blend(_luma(pixels).float(), pixels.float(), factors)
            elif family == (ra.SHARPNESS,):
                pixels = _sharpen(pixels, factors)
            else:
                pixels = shift_hue(pixels, send((args[rows].astype(np.float64) * 255).astype(np.int32), images.device))
            out.index_copy_(0, where, pixels)
    return out.permute(0, 3, 1, 2)


_FAMILIES = (
    ra.GEOMETRY, _FIXED, (ra.CONTRAST,), (ra.AUTOCONTRAST,), (ra.EQUALIZE,), (ra.COLOUR,), (ra.SHARPNESS,), (ra.HUE,),
)  # fmt: skip


def _families(ops: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Each family with the rows i64 [m] of its images, at most CHUNK at a time."""
    for family in _FAMILIES:
        rows = np.flatnonzero(np.isin(ops, family))
        for start in range(0, len(rows), CHUNK):
            yield family, rows[start : start + CHUNK]


def _blend(low: Tensor, high: Tensor, factor: Tensor) -> Tensor:
    """Pillow's Image.blend in f32; three kernels on purpose, as a fused multiply-add would round differently."""
    return (low + factor * (high - low)).clamp(0, 255).to(torch.uint8)


def _luma(pixels: Tensor) -> Tensor:
    """i32 [m, S, S, 1]; Pillow's RGB -> L."""
    red, green, blue = pixels.int().split(1, -1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _mean_luma(pixels: Tensor) -> Tensor:
    luma = _luma(pixels)
    total = luma.sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    return (divide(total.double(), luma[0].numel()) + 0.5).floor().float()


def _look_up(pixels: Tensor, tables: Tensor) -> Tensor:
    """Map u8 [m, S, S, 3] through u8 [m, 3, 256]."""
    offsets = torch.arange(len(pixels) * 3, device=pixels.device, dtype=torch.int32).view(-1, 1, 1, 3) * 256
    return tables.reshape(-1).index_select(0, (pixels + offsets).view(-1)).view_as(pixels)


def _autocontrast_tables(pixels: Tensor) -> Tensor:
    low, high = (extreme.double()[..., None] for extreme in (pixels.amin((1, 2)), pixels.amax((1, 2))))
    levels = torch.arange(256, device=pixels.device, dtype=torch.float64)
    scale = divide(255.0, (high - low).clamp(min=1))
    stretched = (levels * scale + -low * scale).clamp(0, 255)
    return torch.where(high > low, stretched, levels).to(torch.uint8)


def _equalize_tables(pixels: Tensor) -> Tensor:
    m, count = len(pixels), pixels[0, ..., 0].numel()
    offsets = torch.arange(m * 3, device=pixels.device).view(-1, 1, 1, 3) * 256
    index = (pixels + offsets).view(-1)
    counts = torch.zeros(m * 3 * 256, device=pixels.device, dtype=torch.int64)
    counts = counts.scatter_add_(0, index, torch.ones_like(index)).view(m, 3, 256)
    last = counts.gather(2, pixels.amax((1, 2)).long()[..., None])
    step = (count - last) // 255
    table = ((counts.cumsum(2) - counts + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table, torch.arange(256, device=pixels.device)).to(torch.uint8)


def _sharpen(pixels: Tensor, factors: Tensor) -> Tensor:
    wide = pixels.int()
    columns = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    inner = wide[:, 1:-1, 1:-1]
    total = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:] + 4 * inner
    smooth = ((total + 6) * 5042) >> 16  # // 13 for every total up to 13 · 255
    pixels[:, 1:-1, 1:-1] = _blend(smooth.float(), inner.float(), factors)
    return pixels


def _warp(pixels: Tensor, maps: Tensor, nearest: bool, fill: Tensor) -> Tensor:
    """out(x, y) = pixels(a·x + b·y + c, d·x + e·y + f); maps i32 [m, 6] in 16.16."""
    m, size = pixels.shape[:2]
    x = torch.arange(size, device=pixels.device, dtype=torch.int32)
    y = x[:, None]
    a, b, c, d, e, f = (column.view(m, 1, 1) for column in maps.unbind(1))
    u, v = a * x + b * y + c, d * x + e * y + f
    inside = (u >= 0) & (u < size * ONE) & (v >= 0) & (v < size * ONE)
    first = torch.arange(m, device=pixels.device, dtype=torch.int32).view(m, 1, 1) * (size * size)
    flat = pixels.view(-1, 3)

    def read(rows: Tensor, columns: Tensor) -> Tensor:
        index = first + rows.clamp(0, size - 1) * size + columns.clamp(0, size - 1)
        return flat.index_select(0, index.view(-1)).view_as(pixels)

    if nearest:
        moved = read(v >> 16, u >> 16)
    else:
        u, v = u - HALF, v - HALF
        across, down = (((w & 0xFFFF) >> (16 - BITS))[..., None] for w in (u, v))
        u, v = u >> 16, v >> 16
        top = read(v, u) * ((1 << BITS) - across) + read(v, u + 1) * across
        bottom = read(v + 1, u) * ((1 << BITS) - across) + read(v + 1, u + 1) * across
        moved = ((top * ((1 << BITS) - down) + bottom * down) >> (2 * BITS)).to(torch.uint8)
    return torch.where(inside[..., None], moved, fill)
