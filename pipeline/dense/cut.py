"""Cut an image and its mask together: resized, cropped, mirrored and coloured in training, resized in evaluation.

image, classes = cut(image, classes, labels, size=512, key=keys[0])

All chance comes from one key (pipeline.rng): what is made is a pure function of the image and the key. The order is
mmsegmentation's for ADE20K: Resize, RandomCrop, RandomFlip, PhotoMetricDistortion, Pad. What differs: images are
resized with antialiasing.
"""

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pipeline import rng
from pipeline.batch import IGNORED
from pipeline.spec import PixelLabels, Size, both_sides

TRIES = 10
"""Crops that are drawn until no class has more than its share (mmseg: RandomCrop)."""
SCALE, FLIP, CROPS, COLOURS = 0, 1, 2, 2 + 2 * TRIES
DRAWN = COLOURS + 9
PADDING = 124, 116, 104
"""ImageNet's mean colour in grey levels, which is 0 after the normalisation (mmseg pads with 0 there)."""
BRIGHTNESS, CONTRAST, HUE = 32.0, 0.5, 0.1
"""mmseg's PhotoMetricDistortion: levels added, up or down; factors of contrast and saturation from 0.5 to 1.5; turns
of hue, 18 of OpenCV's 180."""


def cut(
    image: tv_tensors.Image, classes: tv_tensors.Mask, labels: PixelLabels, size: Size, key: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Make the training view of an image u8 [3, h, w] and its mask u8 [h, w]: u8 [3, H, W] and u8 [H, W] of `size`.

    key  u64 [1]  of this image in this pass (pipeline.rng.keys)
    """
    drawn = rng.uniforms(key, DRAWN)[0]
    low, high = labels.scale
    sides = resized_sides(classes.shape[0], classes.shape[1], labels, low + (high - low) * drawn[SCALE])
    pixels, held = resize_image(image, sides), F.resize(classes, list(sides), InterpolationMode.NEAREST)
    height, width = both_sides(size)
    top, left = _place(held, (height, width), drawn[CROPS:COLOURS], labels.most)
    pixels, held = pixels[:, top : top + height, left : left + width], held[top : top + height, left : left + width]
    if labels.flip and drawn[FLIP] < 0.5:
        pixels, held = pixels.flip(-1), held.flip(-1)
    if labels.jitter:
        pixels = jittered(pixels, drawn[COLOURS:])
    return padded(pixels, (height, width), PADDING), padded(held[None], (height, width), (IGNORED,))[0]


def evaluation_view(image: Tensor, labels: PixelLabels) -> Tensor:
    """Resize an image u8 [3, h, w] as it is evaluated: the short side to `short_side`, unless the long one is too
    long."""
    return resize_image(image, resized_sides(image.shape[1], image.shape[2], labels)).as_subclass(Tensor)


def resized_sides(height: int, width: int, labels: PixelLabels, factor: float = 1.0) -> tuple[int, int]:
    """Compute height and width after resizing to `short_side` and at most `long_side`, both times `factor`, at the
    same proportion (mmcv: rescale_size)."""
    long, short = labels.long_side * factor, labels.short_side * factor
    by = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * by + 0.5)), max(1, int(width * by + 0.5))


def padded(image: Tensor, sides: tuple[int, int], colour: tuple[int, ...]) -> Tensor:
    """Pad an image u8 [C, h, w] below and to the right to at least `sides` with a colour: u8 [C, H, W]."""
    height, width = (max(least, side) for least, side in zip(sides, image.shape[1:], strict=True))
    if (height, width) == tuple(image.shape[1:]):
        return image.as_subclass(Tensor).contiguous()
    whole = torch.tensor(colour, dtype=torch.uint8, device=image.device)[:, None, None].repeat(1, height, width)
    whole[:, : image.shape[1], : image.shape[2]] = image
    return whole


def jittered(image: Tensor, drawn: np.ndarray) -> Tensor:
    """Change the colours of an image u8 [3, H, W] by nine numbers from 0 to 1: whether, and how much, for brightness,
    contrast, saturation and hue; the last says whether contrast comes before saturation and hue, or after them."""
    on, amount = drawn[0:8:2] < 0.5, drawn[1:8:2]
    if on[0]:
        shift = round((2 * amount[0] - 1) * BRIGHTNESS)
        image = (image.to(torch.int16) + shift).clamp(0, 255).to(torch.uint8)
    factor, first = 1 + (2 * amount[1] - 1) * CONTRAST, drawn[8] < 0.5
    if on[1] and first:
        image = _scaled(image, factor)
    if on[2]:
        image = F.adjust_saturation(image, 1 + (2 * amount[2] - 1) * CONTRAST)
    if on[3]:
        image = F.adjust_hue(image, (2 * amount[3] - 1) * HUE)
    return _scaled(image, factor) if on[1] and not first else image


def _scaled(image: Tensor, factor: float) -> Tensor:
    return (image.float() * factor).clamp(0, 255).to(torch.uint8)  # mmseg's contrast: about 0, not about the mean


def resize_image(image: Tensor, sides: tuple[int, int]) -> Tensor:
    """Resize an image u8 [3, h, w] to height and width, bilinearly and with antialiasing."""
    return F.resize(image, list(sides), InterpolationMode.BILINEAR, antialias=True)


def _place(classes: Tensor, size: tuple[int, int], drawn: np.ndarray, most: float) -> tuple[int, int]:
    """The top left corner of the crop: of TRIES the first in which no class has more than its share, else the last."""
    height, width = size
    down, over = (max(0, side - least) for side, least in zip(classes.shape, size, strict=True))
    top = left = 0
    for try_down, try_over in drawn.reshape(TRIES, 2):
        top, left = int(try_down * (down + 1)), int(try_over * (over + 1))
        if most >= 1:
            break
        inside = classes[top : top + height, left : left + width].flatten()
        counts = torch.bincount(inside, minlength=256)[:IGNORED]
        if int((counts > 0).sum()) > 1 and int(counts.max()) < most * int(counts.sum()):
            break
    return top, left
