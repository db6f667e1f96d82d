"""Draw where a view is cut out of its image, and whether it is mirrored: boxes and flips, on the host.

On a CPU the cut itself is libffcv's area resize (pipeline/backends/kernels.py), on a GPU the same area filter over
packed images (pipeline/executors/crop_flip_triton.py). They show the same crop, to a grey level, wherever both axes
shrink or both grow.

    where = draw(View(scale=(0.2, 1.0)), keys, heights, widths, size=224)     # where.boxes i32 [N, 4]
"""

from typing import NamedTuple

import numpy as np

from pipeline import rng
from pipeline.errors import InputError
from pipeline.spec import View

RATIO = (3 / 4, 4 / 3)  # width / height, as in torchvision's RandomResizedCrop
LOG_RATIO = np.log(RATIO)
TRIES = 10


class Cut(NamedTuple):
    """Where N images are cut: boxes i32 [N, 4], top, left, height, width in the image; insets i32 [N, 4], rows and
    columns of the view (top, left, bottom, right) that lie outside the image and are filled by reflection; flips
    bool [N]."""

    boxes: np.ndarray
    insets: np.ndarray
    flips: np.ndarray


def draw(view: View, keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: int) -> Cut:
    """Draw the boxes of one view for images of the given sizes (i64 [N]) from their keys (u64 [N]).

    Raises InputError where a view cannot be cut: a short side below the view's size, padding as large as the view.
    """
    box_keys, flip_keys = rng.derive(keys, (1, 2))
    if view.crop == "random_resized":
        boxes = _random_resized(box_keys, heights, widths, view.scale)
        insets = np.zeros_like(boxes)
    else:
        boxes, insets = _resize_then_crop(box_keys, heights, widths, size, view)
    flips = rng.uniforms(flip_keys, 1)[:, 0] < 0.5 if view.flip else np.zeros(len(keys), bool)
    return Cut(boxes, insets, flips)


def _random_resized(keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, scale: tuple[float, float]):
    """Follow torchvision's rule: the first of ten random area and aspect pairs that fits, else the largest centre
    crop."""
    u = rng.uniforms(keys, 4 * TRIES).reshape(-1, TRIES, 4)
    h, w = heights[:, None], widths[:, None]
    area = h * w * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    aspect = np.exp(LOG_RATIO[0] + (LOG_RATIO[1] - LOG_RATIO[0]) * u[..., 1])
    height, width = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (height > 0) & (height <= h) & (width > 0) & (width <= w)
    first = np.arange(len(keys)), fits.argmax(1)
    extent, sides = np.stack([height[first], width[first]], -1), np.stack([heights, widths], -1)
    boxes = np.concatenate([np.floor(u[..., 2:][first] * (sides - extent + 1)), extent], 1)
    found = fits[first]
    if not found.all():
        boxes = np.where(found[:, None], boxes, _largest(heights, widths))
    return boxes.astype(np.int32)


def _largest(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    width = np.minimum(widths, np.rint(heights * RATIO[1]))
    height = np.minimum(heights, np.rint(widths / RATIO[0]))
    return np.stack([(heights - height) // 2, (widths - width) // 2, height, width], -1)


def _resize_then_crop(keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: int, view: View):
    short, padding = round(view.short_side * size), 0 if view.crop == "centre" else view.padding
    if short < size or 2 * padding >= size:
        raise InputError(
            f"a view of {size} pixels needs short_side >= 1 and padding below half of it, "
            f"got short_side {view.short_side:g} and padding {padding}"
        )
    scale = np.minimum(heights, widths) / short
    sides = np.stack([heights, widths], -1)
    resized = np.maximum(np.rint(sides / scale[:, None]), size)
    if view.crop == "centre":
        start = np.rint((resized - size) / 2)
    else:
        u = rng.uniforms(keys, 2)
        start = np.floor(u * (resized + 2 * padding - size + 1)) - padding
    before, after = np.maximum(-start, 0), np.maximum(start + size - resized, 0)
    low = np.minimum(np.rint((start + before) * sides / resized), sides - 1)  # of one pixel, not the one behind it
    high = np.rint((start + size - after) * sides / resized)
    boxes = np.concatenate([low, np.maximum(high - low, 1)], -1).astype(np.int32)
    return boxes, np.concatenate([before, after], -1).astype(np.int32)
