"""Draw where a view is cut out of its image, and whether it is mirrored: boxes and flips, on the host.

Antialiased, bilinear or bicubic, a view is Pillow's: on a CPU to the bit (pipeline/executors/resize_numba.py), on a GPU
to a grey level. By area the cut on a CPU is libffcv's (pipeline/backends/kernels.py), on a GPU the same filter over
packed images (pipeline/executors/crop_flip_triton.py). They show the same crop, to a grey level, wherever both axes
shrink or both grow.

    where = draw(View(scale=(0.2, 1.0)), keys, heights, widths, size=(224, 224))     # where.boxes i32 [N, 4]
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.errors import InputError
from pipeline.rng_numba import derive, uniform
from pipeline.spec import View, spelt

RATIO = (3 / 4, 4 / 3)  # width / height, as in torchvision's RandomResizedCrop; in units of the view's
LOG_RATIO = math.log(RATIO[0]), math.log(RATIO[1])
TRIES = 10
_BOX, _FLIP = 1, 2  # tags
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
    n = len(keys)
    boxes, insets, frames = (np.zeros((n, 4), np.int32) for _ in range(3))
    flips = np.zeros(n, np.bool_)
    if view.flip:
        _draw_flips(keys, flips)
    if view.crop == "random_resized":
        _draw_random_resized(keys, heights, widths, size[1] / size[0], *view.scale, boxes)
        if view.filter != "area":
            frames[:, 2:] = size
        return Cut(boxes, insets, flips, frames)
    short, padding = _short_and_padding(view, size)
    resized, start = (np.empty((n, 2)) for _ in range(2))
    _resize(heights, widths, short, size, view.filter == "area", resized)
    _start(keys, resized, size, padding, view.crop == "centre", start)
    if view.filter == "area":
        _cut_by_area(heights, widths, resized, start, size, boxes, insets)
    else:
        boxes[:, 2], boxes[:, 3] = heights, widths
        frames[:, :2], frames[:, 2:] = start, resized
    return Cut(boxes, insets, flips, frames)


@njit(nogil=True, cache=True)
def _draw_flips(keys, flips):
    for i in range(len(keys)):
        flips[i] = uniform(derive(keys[i], _FLIP), 0) < 0.5


@njit(nogil=True, cache=True)
def _draw_random_resized(keys, heights, widths, shape, least, most, boxes):
    """Follow torchvision's rule: the first of ten random area and aspect pairs that fits, else the largest centre crop.

    shape  width / height of the view, the middle of the aspects, so that no view is stretched by more than 4/3. For
           torchvision it is 1: a view of 224 x 112 would show everything half as wide as the evaluation view does.
    """
    for i in range(len(keys)):
        key, h, w = derive(keys[i], _BOX), heights[i], widths[i]
        width = min(max(np.rint(h * (RATIO[1] * shape)), 1), w)  # of the largest, should no try fit
        height = min(max(np.rint(w / (RATIO[0] * shape)), 1), h)
        top, left = (h - height) // 2, (w - width) // 2
        for k in range(0, 4 * TRIES, 4):
            area = h * w * (least + (most - least) * uniform(key, k))
            aspect = shape * math.exp(LOG_RATIO[0] + (LOG_RATIO[1] - LOG_RATIO[0]) * uniform(key, k + 1))
            down, across = np.rint(math.sqrt(area / aspect)), np.rint(math.sqrt(area * aspect))
            if 0 < down <= h and 0 < across <= w:
                height, width = down, across
                top = math.floor(uniform(key, k + 2) * (h - height + 1))
                left = math.floor(uniform(key, k + 3) * (w - width + 1))
                break
        boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = top, left, height, width


def _short_and_padding(view: View, size: tuple[int, int]) -> tuple[tuple[int, int], int]:
    short = round(view.short_side * size[0]), round(view.short_side * size[1])
    padding = 0 if view.crop == "centre" else view.padding
    if any(wanted < side for wanted, side in zip(short, size, strict=True)) or 2 * padding >= min(size):
        raise InputError(
            f"a view of {spelt(size)} pixels needs short_side >= 1 and padding below half of it, "
            f"got short_side {view.short_side:g} and padding {padding}"
        )
    return short, padding


@njit(nogil=True, cache=True)
def _resize(heights, widths, short, size, by_area, resized):
    """Find the sizes f64 [N, 2] to which images are resized before the view is cut out of them."""
    for i in range(len(heights)):
        h, w = heights[i], widths[i]
        if by_area:
            scale = min(h / short[0], w / short[1])  # the image just covers `short`, as timm resizes
            resized[i, 0], resized[i, 1] = max(np.rint(h / scale), size[0]), max(np.rint(w / scale), size[1])
        elif h * short[1] > w * short[0]:  # torchvision cuts a fraction off the longer side
            resized[i, 0], resized[i, 1] = h * short[1] // w, short[1]
        else:
            resized[i, 0], resized[i, 1] = short[0], w * short[0] // h


@njit(nogil=True, cache=True)
def _start(keys, resized, size, padding, centre, start):
    """Find the row and column f64 [N, 2] of the resized images at which the view begins: below 0 in the padding."""
    for i in range(len(keys)):
        key = derive(keys[i], _BOX)
        for axis in range(2):
            room = resized[i, axis] - size[axis]
            start[i, axis] = np.rint(room / 2)
            if not centre:
                start[i, axis] = math.floor(uniform(key, axis) * (resized[i, axis] + 2 * padding - size[axis] + 1))
                start[i, axis] -= padding


@njit(nogil=True, cache=True)
def _cut_by_area(heights, widths, resized, start, size, boxes, insets):
    """Find the pixels of the image under a view of the resized one, to whole pixels, and the view's rows and columns
    beyond."""
    for i in range(len(heights)):
        for axis in range(2):
            side, scaled, first = (heights[i], widths[i])[axis], resized[i, axis], start[i, axis]
            before, after = max(-first, 0.0), max(first + size[axis] - scaled, 0.0)
            low = min(np.rint((first + before) * side / scaled), side - 1)  # of one pixel, not the one behind it
            high = np.rint((first + size[axis] - after) * side / scaled)
            boxes[i, axis], boxes[i, 2 + axis] = low, max(high - low, 1)
            insets[i, axis], insets[i, 2 + axis] = before, after
