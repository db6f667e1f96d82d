"""Carry out RandAugment and colour jitter on a batch in torch, on any device, with the CPU kernels' integers and
floats.

The host knows which image gets which operation, so it splits the batch of each layer into families of operations. The
device only computes: nothing is read back, and no operation runs on an image that does not need it.

    views = apply_ops(images, plan, nearest=True, fill=(0, 0, 0))     # bit by bit what the numba kernels make
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.concurrency.transfer import to_device
from pipeline.executors.rand_augment_tables import HALF, ONE, WEIGHT_BITS, affines, fixed_tables
from pipeline.views import rand_augment as ra

CHUNK = 64  # images of one family at a time: bounds the intermediates to about 1 GB at 224 pixels
_FIXED = (ra.INVERT, ra.POSTERIZE, ra.SOLARIZE, ra.SOLARIZE_ADD, ra.BRIGHTNESS)


def apply_ops(images: Tensor, plan: ra.Ops, *, nearest: bool, fill: tuple[int, int, int]) -> Tensor:
    """Carry out the plan's operations: u8 [N, 3, H, W] -> u8 [N, 3, H, W], new storage, channels-last.

    images   u8 [N, 3, H, W]   any storage order
    nearest  whether geometry reads the nearest pixel instead of interpolating bilinearly
    fill     RGB of pixels that geometry brings in from outside the image
    """
    out = images.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    colour_outside = to_device(np.array(fill, np.uint8), images.device)
    for ops, args in zip(plan.ops.T, plan.args.T, strict=True):
        for family, rows in _families(ops):
            where = to_device(rows, images.device)
            pixels = out.index_select(0, where)
            factors = to_device(args[rows], images.device).view(-1, 1, 1, 1)
            if family == ra.GEOMETRY:
                maps = affines(ops[rows], args[rows], *images.shape[-2:]).astype(np.int32)
                pixels = _warp(pixels, to_device(maps, images.device), nearest, colour_outside)
            elif family == _FIXED:
                tables = to_device(fixed_tables(ops[rows], args[rows]), images.device)
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
                shifts = (args[rows].astype(np.float64) * 255).astype(np.int32)
                pixels = shift_hue(pixels, to_device(shifts, images.device))
            out.index_copy_(0, where, pixels)
    return out.permute(0, 3, 1, 2)


_FAMILIES = (
    ra.GEOMETRY, _FIXED, (ra.CONTRAST,), (ra.AUTOCONTRAST,), (ra.EQUALIZE,), (ra.COLOUR,), (ra.SHARPNESS,), (ra.HUE,),
)  # fmt: skip


def _families(ops: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yield each family of operations with the rows i64 [m] of its images, at most CHUNK at a time."""
    for family in _FAMILIES:
        rows = np.flatnonzero(np.isin(ops, family))
        for start in range(0, len(rows), CHUNK):
            yield family, rows[start : start + CHUNK]


def _blend(low: Tensor, high: Tensor, factor: Tensor) -> Tensor:
    """Blend as Pillow's Image.blend does in f32; in three kernels, as a fused multiply-add would round differently."""
    return (low + factor * (high - low)).clamp(0, 255).to(torch.uint8)


def _luma(pixels: Tensor) -> Tensor:
    """Compute Pillow's RGB -> L: i32 [m, H, W, 1]."""
    red, green, blue = pixels.int().split(1, -1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _mean_luma(pixels: Tensor) -> Tensor:
    luma = _luma(pixels)
    total = luma.sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    return (divide(total.double(), luma[0].numel()) + 0.5).floor().float()


def _look_up(pixels: Tensor, tables: Tensor) -> Tensor:
    """Map u8 [m, H, W, 3] through u8 [m, 3, 256]."""
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
    """Set out(x, y) = pixels(a·x + b·y + c, d·x + e·y + f); maps i32 [m, 6] in 16.16."""
    m, height, width = pixels.shape[:3]
    y, x = (torch.arange(side, device=pixels.device, dtype=torch.int32) for side in (height, width))
    y = y[:, None]
    a, b, c, d, e, f = (column.view(m, 1, 1) for column in maps.unbind(1))
    u, v = a * x + b * y + c, d * x + e * y + f
    inside = (u >= 0) & (u < width * ONE) & (v >= 0) & (v < height * ONE)
    first = torch.arange(m, device=pixels.device, dtype=torch.int32).view(m, 1, 1) * (height * width)
    flat = pixels.view(-1, 3)

    def read(rows: Tensor, columns: Tensor) -> Tensor:
        index = first + rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        return flat.index_select(0, index.view(-1)).view_as(pixels)

    if nearest:
        moved = read(v >> 16, u >> 16)
    else:
        u, v = u - HALF, v - HALF
        across, down = (((w & 0xFFFF) >> (16 - WEIGHT_BITS))[..., None] for w in (u, v))
        u, v = u >> 16, v >> 16
        top = read(v, u) * ((1 << WEIGHT_BITS) - across) + read(v, u + 1) * across
        bottom = read(v + 1, u) * ((1 << WEIGHT_BITS) - across) + read(v + 1, u + 1) * across
        moved = ((top * ((1 << WEIGHT_BITS) - down) + bottom * down) >> (2 * WEIGHT_BITS)).to(torch.uint8)
    return torch.where(inside[..., None], moved, fill)


def divide(x: Tensor | float, by: Tensor | float) -> Tensor:
    """Divide with one rounding: where one side is a Python number torch multiplies by a reciprocal, which rounds
    twice."""
    like = x if isinstance(x, Tensor) else by
    assert isinstance(like, Tensor)
    x, by = (n if isinstance(n, Tensor) else torch.full((), n, dtype=like.dtype, device=like.device) for n in (x, by))
    return x / by


def shift_hue(pixels: Tensor, shifts: Tensor) -> Tensor:
    """Turn the hue of u8 [m, H, W, 3] by shifts i32 [m], in 1/255 of a turn, modulo 256; new storage.

    The HSV is Pillow's of 8 bits, with the float widths of the CPU kernel.
    """
    high, low = pixels.amax(-1), pixels.amin(-1)
    angle, saturation = _hue_saturation(pixels, high, low)
    angle = (angle + shifts.view(-1, 1, 1)) & 255
    turned = _rgb(angle, saturation, high)
    return torch.where((high == low)[..., None], pixels, turned)


def _hue_saturation(pixels: Tensor, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """Compute H and S, i32 [m, H, W]; f32 with f64 steps exactly where Pillow has them."""
    spread = (high - low).clamp(min=1).float()
    to_red, to_green, to_blue = ((high[..., None] - pixels).float() / spread[..., None]).unbind(-1)
    red, green = pixels[..., 0] == high, pixels[..., 1] == high
    from_green = ((2.0 + to_red.double()) - to_blue.double()).float()
    from_blue = ((4.0 + to_green.double()) - to_red.double()).float()
    angle = torch.where(red, to_blue - to_green, torch.where(green, from_green, from_blue)).double()
    angle = divide(angle, 6.0) + 1.0
    fraction = torch.where(angle >= 1.0, angle - 1.0, angle).float()
    saturation = spread / high.clamp(min=1).float()
    return (fraction.double() * 255.0).int(), (saturation.double() * 255.0).int()


def _rgb(angle: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    position = divide(angle.double() * 6.0, 255.0)
    sector = position.int()
    part, amount, level = position - sector, divide(saturation.double(), 255.0), value.double()
    p = level * (1.0 - amount)
    q = level * (1.0 - amount * part)
    t = level * (1.0 - amount * (1.0 - part))
    p, q, t = ((x + 0.5).to(torch.uint8) for x in (p, q, t))
    sector = torch.where(sector == 6, 0, sector)
    out = torch.empty((*value.shape, 3), dtype=torch.uint8, device=value.device)
    for channel, levels in enumerate(
        ((value, q, p, p, t, value), (t, value, value, q, p, p), (p, p, t, value, value, q))
    ):
        chosen = levels[5]
        for number, candidate in enumerate(levels[:5]):
            chosen = torch.where(sector == number, candidate, chosen)
        out[..., channel] = chosen
    return torch.where((saturation == 0)[..., None], value[..., None], out)
