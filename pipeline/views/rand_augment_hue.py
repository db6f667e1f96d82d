"""Hue on a batch: Pillow's 8-bit HSV in torch, with the float widths of the CPU kernel."""

import torch
from torch import Tensor


def divide(x: Tensor | float, by: Tensor | float) -> Tensor:
    """IEEE division: torch itself multiplies by a reciprocal where one side is a Python number, which rounds twice."""
    like = x if isinstance(x, Tensor) else by
    x, by = (n if isinstance(n, Tensor) else torch.full((), n, dtype=like.dtype, device=like.device) for n in (x, by))
    return x / by


def shift_hue(pixels: Tensor, shifts: Tensor) -> Tensor:
    """Turn the hue of u8 [m, S, S, 3] by shifts i32 [m], in 1/255 of a turn, modulo 256; new storage."""
    high, low = pixels.amax(-1), pixels.amin(-1)
    angle, saturation = _hue_saturation(pixels, high, low)
    angle = (angle + shifts.view(-1, 1, 1)) & 255
    turned = _rgb(angle, saturation, high)
    return torch.where((high == low)[..., None], pixels, turned)


def _hue_saturation(pixels: Tensor, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """H and S, i32 [m, S, S]; f32 with f64 steps exactly where Pillow has them."""
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
