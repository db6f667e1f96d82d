"""Draw where a view is cut out of its image, and whether it is mirrored: boxes and flips, on the host.

Antialiased, bilinear or bicubic, a view is Pillow's: on a CPU to the bit (pipeline/executors/resize_numba.py), on a GPU
to a grey level. By area the cut on a CPU is libffcv's (pipeline/backends/kernels.py), on a GPU the same filter over
packed images (pipeline/executors/crop_flip_triton.py). They show the same crop, to a grey level, wherever both axes
shrink or both grow.

    where = draw(View(scale=(0.2, 1.0)), keys, heights, widths, size=(224, 224))     # where.boxes i32 [N, 4]
"""

from typing import NamedTuple

import numpy as np

from pipeline import rng
from pipeline.errors import InputError
from pipeline.spec import View, spelt

RATIO = (3 / 4, 4 / 3)  # width / height, as in torchvision's RandomResizedCrop; in units of the view's
LOG_RATIO = np.log(RATIO)
TRIES = 10
FILTERS = "area", "bilinear", "bicubic"
"""Filters by their numbers in a plan; those of the antialiased ones are their supports in pixels, too."""
AREA, BILINEAR, BICUBIC = range(3)
BITS = 22
"""Fraction bits of an antialiased filter's weights, as Pillow's."""


class Cut(NamedTuple):
    """Where N images are cut.

    boxes   i32 [N, 4]   top, left, height, width in the image: pixels beyond do not exist
    insets  i32 [N, 4]   by area: rows and columns of the view (top, left, bottom, right) that lie outside the box and
                         are filled by reflection; 0 otherwise
    flips   bool [N]
    frames  i32 [N, 4]   antialiased: the box is resized to frames[2] x frames[3] pixels, of which the view begins at
                         row frames[0] and column frames[1], reflected beyond the border; 0 by area
    """

    boxes: np.ndarray
    insets: np.ndarray
    flips: np.ndarray
    frames: np.ndarray


def draw(view: View, keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: tuple[int, int]) -> Cut:
    """Draw the boxes of one view, `size` high and wide, for images of the given sizes (i64 [N]) from their keys
    (u64 [N]).

    Raises InputError where a view cannot be cut: a short side below the view's size, padding as large as the view.
    """
    box_keys, flip_keys = rng.derive(keys, (1, 2))
    flips = rng.uniforms(flip_keys, 1)[:, 0] < 0.5 if view.flip else np.zeros(len(keys), bool)
    none = np.zeros((len(keys), 4), np.int32)
    if view.crop == "random_resized":
        boxes = _random_resized(box_keys, heights, widths, size[1] / size[0], view.scale)
        whole = np.broadcast_to(np.array([0, 0, *size], np.int32), none.shape)
        return Cut(boxes, none, flips, none if view.filter == "area" else whole)
    resized, start = _resize_then_crop(box_keys, heights, widths, size, view)
    if view.filter == "area":
        return Cut(*_boxes(resized, start, heights, widths, size), flips, none)
    boxes = np.stack([np.zeros_like(heights), np.zeros_like(heights), heights, widths], 1).astype(np.int32)
    return Cut(boxes, none, flips, np.concatenate([start, resized], 1).astype(np.int32))


def _random_resized(
    keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, shape: float, scale: tuple[float, float]
) -> np.ndarray:
    """Follow torchvision's rule: the first of ten random area and aspect pairs that fits, else the largest centre crop.

    shape  width / height of the view, the middle of the aspects, so that no view is stretched by more than 4/3. For
           torchvision it is 1: a view of 224 x 112 would show everything half as wide as the evaluation view does.
    """
    u = rng.uniforms(keys, 4 * TRIES).reshape(-1, TRIES, 4)
    h, w = heights[:, None], widths[:, None]
    area = h * w * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    aspect = shape * np.exp(LOG_RATIO[0] + (LOG_RATIO[1] - LOG_RATIO[0]) * u[..., 1])
    height, width = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (height > 0) & (height <= h) & (width > 0) & (width <= w)
    first = np.arange(len(keys)), fits.argmax(1)
    extent, sides = np.stack([height[first], width[first]], -1), np.stack([heights, widths], -1)
    boxes = np.concatenate([np.floor(u[..., 2:][first] * (sides - extent + 1)), extent], 1)
    found = fits[first]
    if not found.all():
        boxes = np.where(found[:, None], boxes, _largest(heights, widths, shape))
    return boxes.astype(np.int32)


def _largest(heights: np.ndarray, widths: np.ndarray, shape: float) -> np.ndarray:
    width = np.clip(np.rint(heights * (RATIO[1] * shape)), 1, widths)
    height = np.clip(np.rint(widths / (RATIO[0] * shape)), 1, heights)
    return np.stack([(heights - height) // 2, (widths - width) // 2, height, width], -1)


def _resize_then_crop(
    keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: tuple[int, int], view: View
) -> tuple[np.ndarray, np.ndarray]:
    short, padding = [round(view.short_side * side) for side in size], 0 if view.crop == "centre" else view.padding
    if any(wanted < side for wanted, side in zip(short, size, strict=True)) or 2 * padding >= min(size):
        raise InputError(
            f"a view of {spelt(size)} pixels needs short_side >= 1 and padding below half of it, "
            f"got short_side {view.short_side:g} and padding {padding}"
        )
    sides = np.stack([heights, widths], -1)
    if view.filter == "area":
        scale = np.minimum(heights / short[0], widths / short[1])  # the image just covers `short`, as timm resizes
        resized = np.maximum(np.rint(sides / scale[:, None]), size)
    else:  # torchvision cuts a fraction off the longer side
        tall = heights * short[1] > widths * short[0]
        down = np.where(tall, heights * short[1] // widths, short[0])
        across = np.where(tall, short[1], widths * short[0] // heights)
        resized = np.stack([down, across], -1).astype(np.float64)
    if view.crop == "centre":
        start = np.rint((resized - size) / 2)
    else:
        u = rng.uniforms(keys, 2)
        start = np.floor(u * (resized + 2 * padding - size + 1)) - padding
    return resized, start


def _boxes(
    resized: np.ndarray, start: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Find the pixels of the image under a view of the resized one, to whole pixels, and the view's rows and columns
    beyond."""
    sides = np.stack([heights, widths], -1)
    before, after = np.maximum(-start, 0), np.maximum(start + size - resized, 0)
    low = np.minimum(np.rint((start + before) * sides / resized), sides - 1)  # of one pixel, not the one behind it
    high = np.rint((start + size - after) * sides / resized)
    boxes = np.concatenate([low, np.maximum(high - low, 1)], -1).astype(np.int32)
    return boxes, np.concatenate([before, after], -1).astype(np.int32)
