"""Cut an image and the boxes and masks of its objects together: large-scale jitter in training, whole in evaluation.

made = cut_boxes(image, objects, labels, size=1024, key=keys[0])
view, sides = fitted(image, size=1024)

All chance comes from one key (pipeline.rng): what is made is a pure function of the image and the key. The order is
detectron2's for ViTDet: RandomFlip, ResizeScale, FixedSizeCrop (Ghiasi et al. 2021), padding below and to the right.
What differs: images are resized with antialiasing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pipeline import rng
from pipeline.dense.annotations import Segmentation
from pipeline.dense.boxes import Objects
from pipeline.dense.cut import PADDING, padded, resize_image
from pipeline.dense.segmentations import drawn, moved
from pipeline.spec import BoxLabels, Size, both_sides

SCALE, FLIP, PLACE, DRAWN = range(4)
LEAST = 1e-5
"""Sides in pixels, at most, of boxes that a crop leaves nothing of (detectron2: filter_empty_instances)."""


class BoxView(NamedTuple):
    """A training view of an image.

    image   u8 [3, H, W]     padded below and to the right
    sides   height and width of what is no padding
    boxes   f32 [m, 4]       of the objects that are seen
    classes i64 [m]
    masks   bool [m, H, W]   None where the set has none
    """

    image: Tensor
    sides: tuple[int, int]
    boxes: Tensor
    classes: Tensor
    masks: Tensor | None


class _Placed(NamedTuple):
    """Where pixels of an image go: to point * scale - offset, x before y, inside a crop of `sides`; then mirrored."""

    scale: tuple[float, float]
    offset: tuple[int, int]
    sides: tuple[int, int]
    flip: bool


def cut_boxes(image: tv_tensors.Image, objects: Objects, labels: BoxLabels, size: Size, key: np.ndarray) -> BoxView:
    """Make the training view of an image u8 [3, h, w] and its objects; those that are ignored are left out.

    key  u64 [1]  of this image in this pass (pipeline.rng.keys)

    The image is resized to `scale` times the largest size that fits, cropped at one random share of both sides'
    surplus, and padded. Where there are masks, boxes are those of the masks' pixels in the crop.
    """
    shares = rng.uniforms(key, DRAWN)[0]
    low, high = labels.scale
    height, width = both_sides(size)
    new = fitting_sides(image.shape[1], image.shape[2], size, low + (high - low) * shares[SCALE])
    crop = min(new[0], height), min(new[1], width)
    top, left = (int(np.round((before - after) * shares[PLACE])) for before, after in zip(new, crop, strict=True))
    placed = _Placed(
        (new[1] / image.shape[2], new[0] / image.shape[1]), (left, top), crop, labels.flip and shares[FLIP] < 0.5
    )
    pixels = resize_image(image, new)[:, top : top + crop[0], left : left + crop[1]]
    if placed.flip:
        pixels = pixels.flip(-1)
    boxes, kinds, masks = _placed_objects(objects, placed, (height, width))
    return BoxView(padded(pixels, (height, width), PADDING), crop, boxes, kinds, masks)


def fitted(image: Tensor, size: Size) -> tuple[Tensor, tuple[int, int]]:
    """Resize an image u8 [3, h, w] to the largest that fits into `size`, and pad it below and to the right; -> u8
    [3, H, W], and the sides of what is no padding."""
    sides = fitting_sides(image.shape[1], image.shape[2], size)
    return padded(resize_image(image, sides), both_sides(size), PADDING), sides


def fitting_sides(height: int, width: int, size: Size, factor: float = 1.0) -> tuple[int, int]:
    """Compute height and width of the largest image of this proportion in `size`, times `factor` (ResizeScale)."""
    most = both_sides(size)
    by = min(most[0] * factor / height, most[1] * factor / width)
    return max(1, int(height * by + 0.5)), max(1, int(width * by + 0.5))


def _placed_objects(objects: Objects, placed: _Placed, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Boxes f32 [m, 4], classes i64 [m] and masks bool [m, H, W] of the objects that the crop shows something of."""
    chosen = np.flatnonzero(~objects.ignored)
    if objects.masks is not None:
        masks = _placed_masks([objects.masks[index] for index in chosen], placed, size)
        seen = masks.flatten(1).any(1)
        masks, chosen = masks[seen], chosen[seen.numpy()]
        return _boxes_of(masks), torch.from_numpy(objects.classes[chosen]), masks
    boxes = objects.boxes[chosen].astype(np.float64) * np.tile(placed.scale, 2) - np.tile(placed.offset, 2)
    limit = np.tile(placed.sides[::-1], 2)
    boxes = boxes.clip(0, limit)
    if placed.flip:
        boxes[:, [0, 2]] = placed.sides[1] - boxes[:, [2, 0]]
    seen = (boxes[:, 2:] - boxes[:, :2] > LEAST).all(1)
    return torch.from_numpy(boxes[seen].astype(np.float32)), torch.from_numpy(objects.classes[chosen[seen]]), None


def _placed_masks(masks: Sequence[Segmentation], placed: _Placed, size: tuple[int, int]) -> Tensor:
    """Draw masks bool [m, H, W]: polygons at the crop's own size, RLE resized to the nearest pixel."""
    height, width = placed.sides
    whole = torch.zeros(len(masks), *size, dtype=torch.bool)
    for index, mask in enumerate(masks):
        if isinstance(mask, dict):
            held = _resized_rle(mask, placed)
        else:
            shift = -placed.offset[0], -placed.offset[1]
            held = torch.from_numpy(drawn(moved(list(mask), placed.scale, shift), height, width))
        whole[index, :height, :width] = held.flip(-1) if placed.flip else held
    return whole


def _resized_rle(mask: dict, placed: _Placed) -> Tensor:
    before = mask["size"]
    held = torch.from_numpy(drawn(mask, *before))
    new = [round(before[0] * placed.scale[1]), round(before[1] * placed.scale[0])]
    resized = F.resize(tv_tensors.Mask(held[None]), new, InterpolationMode.NEAREST)[0].as_subclass(Tensor)
    left, top = placed.offset
    return resized[top : top + placed.sides[0], left : left + placed.sides[1]]


def _boxes_of(masks: Tensor) -> Tensor:
    """The boxes f32 [m, 4] of masks bool [m, H, W], none of which is empty: edges around the outermost pixels."""
    boxes = torch.zeros(len(masks), 4)
    for index, mask in enumerate(masks):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        boxes[index] = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return boxes
