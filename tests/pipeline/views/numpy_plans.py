"""Plans as numpy draws them, many images at once: the oracle of the compiled code that draws them for training.

Trainers drew their plans by this code until it held the GIL for too long; what it drew, runs were trained on.
"""

import math

import numpy as np

from pipeline import rng
from pipeline.sampling.sampler import SampleIds
from pipeline.spec import Mask, View
from pipeline.views.plan import ViewSpec
from pipeline.views.rand_augment import (
    AUTOCONTRAST,
    BRIGHTNESS,
    COLOUR,
    CONTRAST,
    EQUALIZE,
    HUE,
    IDENTITY,
    INVERT,
    NAMES,
    POSTERIZE,
    ROTATE,
    SHARPNESS,
    SHEAR_X,
    SHEAR_Y,
    SOLARIZE,
    SOLARIZE_ADD,
    TRANSLATE_X,
    TRANSLATE_Y,
)  # fmt: skip

RATIO = 3 / 4, 4 / 3
LOG_RATIO = np.log(RATIO)
USB = np.array([
    (AUTOCONTRAST, 0, 0), (BRIGHTNESS, 0.05, 0.95), (COLOUR, 0.05, 0.95), (CONTRAST, 0.05, 0.95), (EQUALIZE, 0, 0),
    (IDENTITY, 0, 0), (POSTERIZE, 4, 8), (ROTATE, -30, 30), (SHARPNESS, 0.05, 0.95), (SHEAR_X, -0.3, 0.3),
    (SHEAR_Y, -0.3, 0.3), (SOLARIZE, 0, 256), (TRANSLATE_X, -0.3, 0.3), (TRANSLATE_Y, -0.3, 0.3),
]).T  # fmt: skip
TIMM = np.array([
    AUTOCONTRAST, EQUALIZE, INVERT, ROTATE, POSTERIZE, SOLARIZE, SOLARIZE_ADD, COLOUR, CONTRAST, BRIGHTNESS,
    SHARPNESS, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y,
])  # fmt: skip
TORCHVISION = np.array([
    IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE, BRIGHTNESS, COLOUR, CONTRAST, SHARPNESS, POSTERIZE,
    SOLARIZE, AUTOCONTRAST, EQUALIZE,
])  # fmt: skip

Size = tuple[int, int]


def draw(spec: ViewSpec, samples: SampleIds, heights: np.ndarray, widths: np.ndarray, seed: int) -> dict:
    """The random parts of a plan by name: those of each view as lists, and the mask's."""
    streams = [stream for _, stream in spec.views.values()]
    *keys, mask_keys = rng.keys(seed, samples.passes, samples.ids, (*streams, rng.MASK))
    parts = [
        of_view(view, own, heights, widths, spec.size) for (view, _), own in zip(spec.views.values(), keys, strict=True)
    ]
    drawn: dict = {name: [part[name] for part in parts] for name in parts[0]}
    if spec.mask:
        grid = spec.size[0] // spec.patch, spec.size[1] // spec.patch
        drawn["visible"], drawn["hidden"] = MASKS[spec.mask.kind](spec.mask, rng.derive(mask_keys, streams[0]), grid)
    return drawn


def of_view(view: View, keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: Size) -> dict:
    cut_keys, jitter_keys, augment_keys, erase_keys = rng.derive(keys, (1, 2, 3, 4))
    ops, args = [np.zeros((len(keys), 0))], [np.zeros((len(keys), 0))]
    if view.jitter:
        jitter(jitter_keys, view, ops, args)
    if view.augment != "none":
        augment(augment_keys, view, size, ops, args)
    erased = np.zeros((len(keys), 4))
    if view.erase != "none":
        erased = (cutout if view.erase == "cutout" else erasing)(erase_keys, size)
    return {
        **cut(view, cut_keys, heights, widths, size),
        "ops": np.concatenate(ops, 1).astype(np.int8),
        "args": np.concatenate(args, 1).astype(np.float32),
        "erased": erased.astype(np.int32),
        "noise": rng.derive(keys, 0x4015E),
    }


def cut(view: View, keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: Size) -> dict:
    box_keys, flip_keys = rng.derive(keys, (1, 2))
    flips = rng.uniforms(flip_keys, 1)[:, 0] < 0.5 if view.flip else np.zeros(len(keys), bool)
    insets = frames = np.zeros((len(keys), 4))
    if view.crop == "random_resized":
        boxes = random_resized(box_keys, heights, widths, size[1] / size[0], view.scale)
        if view.filter != "area":
            frames = np.broadcast_to([0, 0, *size], frames.shape)
    else:
        resized, start = resize_then_crop(box_keys, heights, widths, size, view)
        if view.filter == "area":
            boxes, insets = by_area(resized, start, heights, widths, size)
        else:
            boxes = np.stack([np.zeros_like(heights), np.zeros_like(heights), heights, widths], 1)
            frames = np.concatenate([start, resized], 1)
    boxes, insets, frames = (each.astype(np.int32) for each in (boxes, insets, frames))
    return {"boxes": boxes, "insets": insets, "flips": flips, "frames": frames}


def random_resized(
    keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, shape: float, scale: tuple[float, float]
) -> np.ndarray:
    u = rng.uniforms(keys, 40).reshape(-1, 10, 4)
    h, w = heights[:, None], widths[:, None]
    area = h * w * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    aspect = shape * np.exp(LOG_RATIO[0] + (LOG_RATIO[1] - LOG_RATIO[0]) * u[..., 1])
    height, width = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (height > 0) & (height <= h) & (width > 0) & (width <= w)
    first = np.arange(len(keys)), fits.argmax(1)
    extent, sides = np.stack([height[first], width[first]], -1), np.stack([heights, widths], -1)
    boxes = np.concatenate([np.floor(u[..., 2:][first] * (sides - extent + 1)), extent], 1)
    return np.where(fits[first][:, None], boxes, largest(heights, widths, shape))


def largest(heights: np.ndarray, widths: np.ndarray, shape: float) -> np.ndarray:
    width = np.clip(np.rint(heights * (RATIO[1] * shape)), 1, widths)
    height = np.clip(np.rint(widths / (RATIO[0] * shape)), 1, heights)
    return np.stack([(heights - height) // 2, (widths - width) // 2, height, width], -1)


def resize_then_crop(
    keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: Size, view: View
) -> tuple[np.ndarray, np.ndarray]:
    short, padding = [round(view.short_side * side) for side in size], view.padding
    if view.filter == "area":
        scale = np.minimum(heights / short[0], widths / short[1])
        resized = np.maximum(np.rint(np.stack([heights, widths], -1) / scale[:, None]), size)
    else:
        tall = heights * short[1] > widths * short[0]
        down = np.where(tall, heights * short[1] // widths, short[0])
        across = np.where(tall, short[1], widths * short[0] // heights)
        resized = np.stack([down, across], -1).astype(np.float64)
    if view.crop == "centre":
        return resized, np.rint((resized - size) / 2)
    return resized, np.floor(rng.uniforms(keys, 2) * (resized + 2 * padding - size + 1)) - padding


def by_area(
    resized: np.ndarray, start: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: Size
) -> tuple[np.ndarray, np.ndarray]:
    sides = np.stack([heights, widths], -1)
    before, after = np.maximum(-start, 0), np.maximum(start + size - resized, 0)
    low = np.minimum(np.rint((start + before) * sides / resized), sides - 1)
    high = np.rint((start + size - after) * sides / resized)
    return np.concatenate([low, np.maximum(high - low, 1)], -1), np.concatenate([before, after], -1)


def jitter(keys: np.ndarray, view: View, ops: list, args: list) -> None:
    assert view.jitter
    *strengths, hue = view.jitter
    strengths = np.array(strengths)
    numbers = rng.uniforms(rng.derive(keys, 0xC01A), 9)
    low = np.maximum(0, 1 - strengths)
    values = np.concatenate([low + (1 + strengths - low) * numbers[:, :3], hue * (2 * numbers[:, 3:4] - 1)], axis=1)
    kinds = np.where([*(strengths > 0), hue > 0], [BRIGHTNESS, CONTRAST, COLOUR, HUE], IDENTITY)
    applied = (numbers[:, 8:] < view.jitter_probability) & (kinds > 0)
    order = np.argsort(numbers[:, 4:8], axis=1, kind="stable")
    ops.append(np.take_along_axis(np.where(applied, kinds, IDENTITY), order, 1))
    args.append(np.take_along_axis(np.where(applied, values, 0), order, 1))


def augment(keys: np.ndarray, view: View, size: Size, ops: list, args: list) -> None:
    layers = view.layers or {"usb": 3, "timm": 2, "torchvision": 2}[view.augment]
    numbers = rng.uniforms(rng.derive(keys, 0x52A9D), layers * 8).reshape(len(keys), layers, 8)
    if view.augment == "usb":
        op, low, high = USB[:, (numbers[..., 0] * USB.shape[1]).astype(int)]
        value = low + (high - low) * numbers[..., 1]
        value = np.where(op == POSTERIZE, np.floor(value), value)
    elif view.augment == "timm":
        op, value = timm(numbers, rng.normals(rng.derive(keys, 0x52A9D + 1), layers))
    else:
        op, value = torchvision(numbers, size)
    ops.append(op)
    args.append(value)


def timm(numbers: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    op = TIMM[(numbers[..., 0] * len(TIMM)).astype(int)]
    level = np.clip(9 + 0.5 * noise, 0, 10) / 10
    signed = np.where(numbers[..., 2] < 0.5, level, -level)
    by_op = np.zeros((len(NAMES), *op.shape))
    by_op[ROTATE] = signed * 30
    by_op[[SHEAR_X, SHEAR_Y]] = signed * 0.3
    by_op[[TRANSLATE_X, TRANSLATE_Y]] = signed * 0.45
    by_op[[COLOUR, CONTRAST, BRIGHTNESS, SHARPNESS]] = np.maximum(0.1, 1 + signed * 0.9)
    by_op[POSTERIZE] = 4 - np.floor(level * 4)
    by_op[SOLARIZE] = 256 - np.floor(level * 256)
    by_op[SOLARIZE_ADD] = np.floor(level * 110)
    applied = numbers[..., 3] < 0.5
    return np.where(applied, op, IDENTITY), np.where(applied, np.take_along_axis(by_op, op[None], 0)[0], 0)


def torchvision(numbers: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    op = TORCHVISION[(numbers[..., 0] * len(TORCHVISION)).astype(int)]
    level, sign = 9 / 30, np.where(numbers[..., 2] < 0.5, 1.0, -1.0)
    by_op = np.zeros((len(NAMES), *op.shape))
    by_op[ROTATE] = sign * 30 * level
    by_op[[SHEAR_X, SHEAR_Y]] = sign * 0.3 * level
    for moved, side in zip((TRANSLATE_Y, TRANSLATE_X), size, strict=True):
        by_op[moved] = sign * int(150 / 331 * side * level) / side
    by_op[[COLOUR, CONTRAST, BRIGHTNESS, SHARPNESS]] = 1 + sign * 0.9 * level
    by_op[POSTERIZE] = 8 - round(level * 4)
    by_op[SOLARIZE] = 255 - 255 * level
    return op, np.take_along_axis(by_op, op[None], 0)[0]


def cutout(keys: np.ndarray, size: Size) -> np.ndarray:
    side, top, left = rng.uniforms(rng.derive(keys, 0xC07), 3).T
    side = side * 0.5 * size[1]
    near = [np.floor(np.maximum(0, 1 + (n - 1) * u - side / 2)) for n, u in zip(size, (top, left), strict=True)]
    extent = [np.minimum(np.floor(at + side), n - 1) - at + 1 for n, at in zip(size, near, strict=True)]
    return np.where(side[:, None] > 0, np.stack([*near, *extent], axis=1), 0)


def erasing(keys: np.ndarray, size: Size) -> np.ndarray:
    numbers = rng.uniforms(rng.derive(keys, 0xE7A5E), 41)
    applied, attempts = numbers[:, 0] < 0.25, numbers[:, 1:].reshape(-1, 10, 4)
    pixels = (0.02 + (1 / 3 - 0.02) * attempts[..., 0]) * size[0] * size[1]
    low, high = math.log(0.3), math.log(1 / 0.3)
    ratio = np.exp(low + (high - low) * attempts[..., 1])
    height, width = np.rint(np.sqrt(pixels * ratio)), np.rint(np.sqrt(pixels / ratio))
    top, left = (np.floor(attempts[..., 2 + i] * (size[i] - side + 1)) for i, side in enumerate((height, width)))
    fits = (height < size[0]) & (width < size[1])
    first = np.argmax(fits, axis=1)[:, None, None]
    boxes = np.take_along_axis(np.stack([top, left, height, width], axis=-1), first, 1)[:, 0]
    return np.where((applied & fits.any(1))[:, None], boxes, 0)


def lowest(noise: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` lowest numbers of each row, ascending."""
    return np.sort(np.argsort(noise, axis=-1)[..., :count], axis=-1)


def random(mask: Mask, keys: np.ndarray, grid: Size) -> tuple[np.ndarray, None]:
    total = grid[0] * grid[1]
    return lowest(rng.uniforms(keys, total), int(total * (1 - mask.ratio) + 1e-9)), None


def block(mask: Mask, keys: np.ndarray, grid: Size) -> tuple[np.ndarray, None]:
    (down, across), total = grid, grid[0] * grid[1]
    visible = int(total * (1 - mask.ratio) + 1e-9)
    noise = rng.uniforms(rng.derive(keys, 2), total)
    for image, draws in enumerate(rng.uniforms(rng.derive(keys, 1), 256).reshape(-1, 64, 4)):
        hidden, target = np.zeros(grid, bool), total - visible
        for area, aspect, top, left in draws:
            rest = target - hidden.sum()
            smallest = min(max(1.0, 16 / 196 * total), rest)
            area, aspect = smallest + area * (rest - smallest), math.exp(math.log(0.3) * (1 - 2 * aspect))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < height < down and 0 < width < across:
                top, left = int(top * (down - height + 1)), int(left * (across - width + 1))
                more = hidden.copy()
                more[top : top + height, left : left + width] = True
                hidden = more if more.sum() <= target else hidden
        noise[image] += hidden.ravel()
    return lowest(noise, visible), None


def unit(mask: Mask, keys: np.ndarray, grid: Size) -> tuple[np.ndarray, None]:
    units = grid[0] // mask.unit, grid[1] // mask.unit
    total = units[0] * units[1]
    shown = np.zeros((len(keys), total), bool)
    visible = total - math.ceil(mask.ratio * total - 1e-9)
    np.put_along_axis(shown, lowest(rng.uniforms(keys, total), visible), True, 1)
    shown = np.kron(shown.reshape(-1, *units), np.ones((1, mask.unit, mask.unit), bool))
    return np.stack([np.flatnonzero(each) for each in shown]), None


def window(mask: Mask, keys: np.ndarray, grid: Size) -> tuple[np.ndarray, np.ndarray]:
    side, hidden, (rows, columns) = mask.window, int(mask.ratio * mask.window**2 + 1e-9), np.subtract(grid, mask.window)
    place_keys, mask_keys = rng.derive(keys, (1, 2))
    places = lowest(rng.uniforms(place_keys, (rows + 1) * (columns + 1)), 1 if mask.same_place else mask.windows)
    places = np.broadcast_to(places, (len(keys), mask.windows))
    first = places // (columns + 1) * grid[1] + places % (columns + 1)
    inside = (np.arange(side)[:, None] * grid[1] + np.arange(side)).ravel()
    noise = rng.uniforms(mask_keys, mask.windows * side**2).reshape(-1, mask.windows, side**2)
    parts = lowest(-noise, side**2 - hidden), lowest(noise, hidden)
    visible_ids, hidden_ids = (first[:, :, None] + inside[part] for part in parts)
    return visible_ids, hidden_ids


def grid(_: Mask, keys: np.ndarray, grid: Size) -> tuple[np.ndarray, None]:
    ids = np.arange(grid[0] * grid[1]).reshape(grid)[::2, ::2].ravel()
    return np.broadcast_to(ids, (len(keys), len(ids))), None


MASKS = {"random": random, "block": block, "unit": unit, "window": window, "grid": grid}
