"""Carry out RandAugment and colour jitter on a batch by two CUDA kernels a layer, with the CPU kernels' integers and
floats.

The torch version launches some hundred kernels a layer and moves every intermediate through memory; here a pixel is
read once, changed in registers and written once. No launch fuses a multiplication with an addition, which would round
differently. The module is imported where there is a GPU, as Triton needs one.

    views = apply_ops(images, plan, nearest=True, fill=(0, 0, 0))     # bit by bit what the torch version makes
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.concurrency.transfer import to_device
from pipeline.executors.rand_augment_tables import HALF, WEIGHT_BITS, affines, fixed_tables
from pipeline.views import rand_augment as ra

ROWS = 2  # rows of a view that one program does
COUNTED = 1024  # pixels that a program counts in one vector
_BITS, _ONE, _TWICE = tl.constexpr(WEIGHT_BITS), tl.constexpr(1 << WEIGHT_BITS), tl.constexpr(2 * WEIGHT_BITS)
_HALF = tl.constexpr(HALF)
_IDENTITY, _AUTOCONTRAST, _EQUALIZE, _CONTRAST, _COLOUR, _SHARPNESS, _HUE = map(tl.constexpr, (
    ra.IDENTITY, ra.AUTOCONTRAST, ra.EQUALIZE, ra.CONTRAST, ra.COLOUR, ra.SHARPNESS, ra.HUE))  # fmt: skip
_ROTATE, _SHEAR_X, _TRANSLATE_Y = map(tl.constexpr, (ra.ROTATE, ra.SHEAR_X, ra.TRANSLATE_Y))


def apply_ops(images: Tensor, plan: ra.Ops, *, nearest: bool, fill: tuple[int, int, int]) -> Tensor:
    """Carry out the plan's operations: u8 [N, 3, H, W] -> u8 [N, 3, H, W], new storage, channels-last; no host sync.

    images   u8 [N, 3, H, W]   any storage order
    nearest  whether geometry reads the nearest pixel instead of interpolating bilinearly
    fill     RGB of pixels that geometry brings in from outside the image
    """
    pixels = images.permute(0, 2, 3, 1).contiguous()
    (n, layers), (height, width) = plan.ops.shape, images.shape[-2:]
    if not n or not plan.ops.any():
        return pixels.clone().permute(0, 3, 1, 2)
    ops, args = plan.ops.T.astype(np.int32), np.ascontiguousarray(plan.args.T, np.float32)
    maps = affines(ops.ravel(), args.ravel(), height, width).astype(np.int32).reshape(layers, n, 6)
    # of each layer and image, i32: the operation, its argument's bits, its affine map
    choices = to_device(np.concatenate([ops[..., None], args.view(np.int32)[..., None], maps], 2), images.device)
    fixed = to_device(fixed_tables(ops.ravel(), args.ravel()).reshape(layers, n, 256), images.device)
    tables = torch.empty(n, 3, 256, dtype=torch.uint8, device=images.device)
    spare = [torch.empty_like(pixels) for _ in range(min(layers, 2))]
    block, exact = triton.next_power_of_2(width), {"enable_fp_fusion": False}
    tiles = {"ROWS": ROWS, "BLOCK": block, "num_warps": max(4, block // 64)}  # as many pixels a thread at every size
    for layer in range(layers):
        out = spare[layer % 2]
        _tables[(n, 3)](pixels, choices[layer], fixed[layer], tables, height * width, COUNTED=COUNTED, **exact)
        _change[(n, triton.cdiv(height, ROWS))](
            pixels, choices[layer], tables, out, height, width, *fill, NEAREST=nearest, **tiles, **exact
        )
        pixels = out
    return pixels.permute(0, 3, 1, 2)


@triton.jit
def _blend(low, high, factor):
    """Blend as Pillow's Image.blend does in f32, to u8."""
    value = low + factor * (high - low)
    return tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.uint8)


@triton.jit
def _luma(red, green, blue):
    """Compute Pillow's RGB -> L of three i32."""
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


@triton.jit
def _tables(pixels, choices, fixed, tables, n, COUNTED: tl.constexpr):
    """Write the table of one channel of an image, level -> level, for operations that mix neither channels nor
    pixels."""
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1)
    op = tl.load(choices + image * 8)
    factor = tl.load(choices + image * 8 + 1).to(tl.float32, bitcast=True)
    levels, at = tl.arange(0, 256), tl.arange(0, COUNTED)
    source, table = pixels + image * n * 3, tables + (image * 3 + channel) * 256 + levels
    if op == _EQUALIZE:
        counts = tl.zeros([256], tl.int32)
        for first in range(0, n, COUNTED):
            inside = first + at < n
            level = tl.load(source + (first + at) * 3 + channel, inside, 0).to(tl.int32)
            counts += tl.histogram(level, 256, inside)
        last = tl.max(tl.where(counts > 0, levels, 0), 0)
        step = (n - tl.sum(tl.where(levels == last, counts, 0), 0)) // 255
        spread = (tl.cumsum(counts, 0) - counts + step // 2) // tl.maximum(step, 1)
        tl.store(table, tl.where(step > 0, tl.minimum(spread, 255), levels).to(tl.uint8))
    elif op == _AUTOCONTRAST:
        low, high = tl.full([COUNTED], 255, tl.int32), tl.zeros([COUNTED], tl.int32)
        for first in range(0, n, COUNTED):
            inside = first + at < n
            level = tl.load(source + (first + at) * 3 + channel, inside, 0).to(tl.int32)
            low, high = tl.minimum(low, tl.where(inside, level, 255)), tl.maximum(high, level)
        least, most = tl.min(low, 0), tl.max(high, 0)
        wide = tl.full([256], 255.0, tl.float64) / tl.maximum(most - least, 1).to(tl.float64)
        stretched = levels.to(tl.float64) * wide + -least.to(tl.float64) * wide
        stretched = tl.minimum(tl.maximum(stretched, 0.0), 255.0).to(tl.int32)
        tl.store(table, tl.where(most > least, stretched, levels).to(tl.uint8))
    elif op == _CONTRAST:
        total = tl.zeros([COUNTED], tl.int32)
        for first in range(0, n, COUNTED):
            inside = first + at < n
            red, green, blue = _read(source + (first + at) * 3, inside)
            total += _luma(red, green, blue)  # 0 where nothing is
        mean = (tl.sum(total, 0).to(tl.float64) / tl.full([256], n, tl.float64) + 0.5).to(tl.int32).to(tl.float32)
        tl.store(table, _blend(mean, levels.to(tl.float32), factor))
    else:
        tl.store(table, tl.load(fixed + image * 256 + levels))


@triton.jit
def _change(
    pixels, choices, tables, out, height, width, fill_red, fill_green, fill_blue,
    NEAREST: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Carry out an image's operation on some of its rows."""
    image = tl.program_id(0).to(tl.int64)
    row = choices + image * 8
    op, factor = tl.load(row), tl.load(row + 1).to(tl.float32, bitcast=True)
    y, x = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None], tl.arange(0, BLOCK)[None, :]
    shown = (y < height) & (x < width)
    source, at = pixels + image * height * width * 3, (y * width + x) * 3
    red, green, blue = _read(source + at, shown)
    if op == _COLOUR:
        grey = _luma(red, green, blue).to(tl.float32)
        red = _blend(grey, red.to(tl.float32), factor).to(tl.int32)
        green = _blend(grey, green.to(tl.float32), factor).to(tl.int32)
        blue = _blend(grey, blue.to(tl.float32), factor).to(tl.int32)
    elif op == _SHARPNESS:
        inner = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
        red = tl.where(inner, _sharper(source + at, width * 3, red, inner, factor), red)
        green = tl.where(inner, _sharper(source + at + 1, width * 3, green, inner, factor), green)
        blue = tl.where(inner, _sharper(source + at + 2, width * 3, blue, inner, factor), blue)
    elif op == _HUE:
        red, green, blue = _turned(red, green, blue, (factor.to(tl.float64) * 255.0).to(tl.int32))
    elif (op == _ROTATE) | ((op >= _SHEAR_X) & (op <= _TRANSLATE_Y)):
        a, b, c = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
        d, e, f = tl.load(row + 5), tl.load(row + 6), tl.load(row + 7)
        u, v = a * x + b * y + c, d * x + e * y + f
        inside = shown & (u >= 0) & (u < (width << 16)) & (v >= 0) & (v < (height << 16))
        if NEAREST:
            red, green, blue = _read(source + ((v >> 16) * width + (u >> 16)) * 3, inside)
        else:
            red, green, blue = _between(source, u - _HALF, v - _HALF, height, width, inside)
        red, green = tl.where(inside, red, fill_red), tl.where(inside, green, fill_green)
        blue = tl.where(inside, blue, fill_blue)
    elif op != _IDENTITY:
        table = tables + image * 768
        red, green = tl.load(table + red).to(tl.int32), tl.load(table + 256 + green).to(tl.int32)
        blue = tl.load(table + 512 + blue).to(tl.int32)
    target = out + image * height * width * 3 + at
    tl.store(target, red.to(tl.uint8), shown)
    tl.store(target + 1, green.to(tl.uint8), shown)
    tl.store(target + 2, blue.to(tl.uint8), shown)


@triton.jit
def _read(place, inside):
    red, green = tl.load(place, inside, 0).to(tl.int32), tl.load(place + 1, inside, 0).to(tl.int32)
    return red, green, tl.load(place + 2, inside, 0).to(tl.int32)


@triton.jit
def _sharper(place, stride, level, inner, factor):
    """Blend a level with the weighted mean of itself (five times) and its eight neighbours."""
    total = 4 * level + 6
    for row in tl.static_range(3):
        for column in tl.static_range(3):
            total += tl.load(place + (row - 1) * stride + (column - 1) * 3, inner, 0).to(tl.int32)
    return _blend((total // 13).to(tl.float32), level.to(tl.float32), factor).to(tl.int32)


@triton.jit
def _between(source, u, v, height, width, inside):
    """Compute the weighted mean of the four pixels around (u, v) in 16.16, truncated."""
    across, down = (u & 0xFFFF) >> (16 - _BITS), (v & 0xFFFF) >> (16 - _BITS)
    left, right = tl.maximum(u >> 16, 0), tl.minimum((u >> 16) + 1, width - 1)
    upper, lower = tl.maximum(v >> 16, 0) * width, tl.minimum((v >> 16) + 1, height - 1) * width
    red, green, blue = tl.zeros_like(u), tl.zeros_like(u), tl.zeros_like(u)
    for corner in tl.static_range(4):
        column = left if corner % 2 == 0 else right
        row = upper if corner < 2 else lower
        weight = _ONE - across if corner % 2 == 0 else across
        weight *= _ONE - down if corner < 2 else down
        near_red, near_green, near_blue = _read(source + (row + column) * 3, inside)
        red, green, blue = red + near_red * weight, green + near_green * weight, blue + near_blue * weight
    return red >> _TWICE, green >> _TWICE, blue >> _TWICE


@triton.jit
def _turned(red, green, blue, shift):
    """Turn the hue of i32 levels by `shift` (i32) 255ths of a turn, modulo 256, in Pillow's 8-bit HSV."""
    high = tl.maximum(tl.maximum(red, green), blue)
    low = tl.minimum(tl.minimum(red, green), blue)
    spread = tl.maximum(high - low, 1).to(tl.float32)
    angle = (_angle(red, green, blue, high, spread) + shift) & 255
    saturation = (tl.div_rn(spread, tl.maximum(high, 1).to(tl.float32)).to(tl.float64) * 255.0).to(tl.int32)
    position = _divided(angle.to(tl.float64) * 6.0, 255.0)
    sector = position.to(tl.int32)
    part, amount, level = (
        position - sector.to(tl.float64),
        _divided(saturation.to(tl.float64), 255.0),
        high.to(tl.float64),
    )
    p = (level * (1.0 - amount) + 0.5).to(tl.int32)
    q = (level * (1.0 - amount * part) + 0.5).to(tl.int32)
    t = (level * (1.0 - amount * (1.0 - part)) + 0.5).to(tl.int32)
    sector = tl.where(sector == 6, 0, sector)
    grey = high == low
    red = tl.where(grey, red, _select(sector, high, q, p, p, t, high))
    green = tl.where(grey, green, _select(sector, t, high, high, q, p, p))
    return red, green, tl.where(grey, blue, _select(sector, p, p, t, high, high, q))


@triton.jit
def _angle(red, green, blue, high, spread):
    """Compute H in 0..255, truncated; f32 with f64 steps exactly where Pillow has them."""
    to_red = tl.div_rn((high - red).to(tl.float32), spread)
    to_green = tl.div_rn((high - green).to(tl.float32), spread)
    to_blue = tl.div_rn((high - blue).to(tl.float32), spread)
    from_green = ((2.0 + to_red.to(tl.float64)) - to_blue.to(tl.float64)).to(tl.float32)
    from_blue = ((4.0 + to_green.to(tl.float64)) - to_red.to(tl.float64)).to(tl.float32)
    angle = tl.where(red == high, to_blue - to_green, tl.where(green == high, from_green, from_blue))
    whole = _divided(angle.to(tl.float64), 6.0) + 1.0
    fraction = tl.where(whole >= 1.0, whole - 1.0, whole).to(tl.float32)
    return (fraction.to(tl.float64) * 255.0).to(tl.int32)


@triton.jit
def _divided(x, by):
    """Divide f64 by a number with one rounding: as a full tensor the compiler does not turn it into a product."""
    return x / tl.full(x.shape, by, tl.float64)


@triton.jit
def _select(sector, zero, one, two, three, four, five):
    """Select a level by the sector 0..5 of the hue."""
    level = tl.where(sector == 1, one, zero)
    level = tl.where(sector == 2, two, level)
    level = tl.where(sector == 3, three, level)
    level = tl.where(sector == 4, four, level)
    return tl.where(sector == 5, five, level)
