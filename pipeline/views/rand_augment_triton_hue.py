"""The turn of a pixel's hue inside a CUDA kernel: Pillow's 8-bit HSV with the float widths of the CPU kernel."""

import triton
import triton.language as tl


@triton.jit
def turned(red, green, blue, shift):
    """Turn the hue of i32 levels by `shift` (i32) 255ths of a turn, modulo 256."""
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
    """H in 0..255, truncated; f32 with f64 steps exactly where Pillow has them."""
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
    """IEEE division of f64 by a number, which the compiler must not turn into a product."""
    return x / tl.full(x.shape, by, tl.float64)


@triton.jit
def _select(sector, zero, one, two, three, four, five):
    """By sector 0..5."""
    level = tl.where(sector == 1, one, zero)
    level = tl.where(sector == 2, two, level)
    level = tl.where(sector == 3, three, level)
    level = tl.where(sector == 4, four, level)
    return tl.where(sector == 5, five, level)
