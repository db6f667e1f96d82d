"""Blur, zoom and warp f32 images [H, W, C] for the corruptions, in compiled code that releases the GIL."""

from functools import lru_cache
from math import ceil
from typing import Literal, NamedTuple

import numpy as np
from numba import njit

Border = Literal["edge", "symmetric", "reflect"]  # aaa|abc, cba|abc and cb|abc, as numpy.pad calls them


class Band(NamedTuple):
    """Linear map of a line of n pixels: matrix f32 [n, n], whose row i is zero outside first[i]..last[i]-1."""

    matrix: np.ndarray
    first: np.ndarray
    last: np.ndarray


class Taps(NamedTuple):
    """Kernel as its non-zero weights (f32 [K], their sum 1) and the offsets that they read: rows, columns i64 [K]."""

    rows: np.ndarray
    columns: np.ndarray
    weights: np.ndarray


def fold(places: np.ndarray, n: int, border: Border) -> np.ndarray:
    """Map places beyond a line of n pixels back into it, as the border says."""
    if border == "edge" or n == 1:
        return np.clip(places, 0, n - 1)
    if border == "symmetric":
        places = places % (2 * n)
        return np.minimum(places, 2 * n - 1 - places)
    places = places % (2 * n - 2)
    return np.minimum(places, 2 * n - 2 - places)


@lru_cache(maxsize=64)
def gaussian_band(n: int, sigma: float, truncate: float, border: Border) -> Band:
    """Make the band of a Gaussian of `sigma` pixels, cut off at `truncate` sigmas, with the border folded in."""
    radius = int(truncate * sigma + 0.5)
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (steps / max(sigma, 1e-9)) ** 2)
    lines = np.arange(n)[:, None]
    matrix = np.zeros((n, n))
    np.add.at(matrix, (lines, fold(lines + steps, n, border)), weights / weights.sum())
    return _band(matrix)


@lru_cache(maxsize=256)
def zoom_band(n: int, factor: float) -> Band:
    """Make the band that enlarges the middle 1/factor of a line to its full length: linear, with the end pixels kept in
    place, then cut to n."""
    inside = ceil(n / factor)
    drawn = round(inside * factor)
    places = (np.arange(n) + (drawn - n) // 2) * ((inside - 1) / max(1, drawn - 1))
    below = np.clip(places.astype(np.int64), 0, max(0, inside - 2))
    share, start, matrix = places - below, (n - inside) // 2, np.zeros((n, n))
    np.add.at(matrix, (np.arange(n), start + below), 1 - share)
    np.add.at(matrix, (np.arange(n), start + np.minimum(below + 1, inside - 1)), share)
    return _band(matrix)


def _band(matrix: np.ndarray) -> Band:
    used = matrix != 0
    return Band(matrix.astype(np.float32), used.argmax(1), len(matrix) - used[:, ::-1].argmax(1))


def gaussian(image: np.ndarray, sigma: float, truncate: float = 4, border: Border = "edge") -> np.ndarray:
    """Blur by a Gaussian; sigma 0 changes nothing."""
    height, width = image.shape[:2]
    return separable(image, *(gaussian_band(n, float(sigma), truncate, border) for n in (height, width)))


def zoom(image: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge the middle of the image by `factor` (1 or more), cut to the size that it had."""
    return separable(image, *(zoom_band(n, float(factor)) for n in image.shape[:2]))


def separable(image: np.ndarray, down: Band, across: Band) -> np.ndarray:
    """Compute down · image · acrossᵀ: f32 [H, W, C]."""
    first = _lines(image, down)
    return _lines(first.transpose(1, 0, 2), across).transpose(1, 0, 2)


def _lines(image: np.ndarray, band: Band) -> np.ndarray:
    flat = np.ascontiguousarray(image, np.float32).reshape(len(image), -1)
    out = np.zeros_like(flat)
    _weigh(flat, band.matrix, band.first, band.last, out)
    return out.reshape(image.shape)


@njit(nogil=True, cache=True)
def _weigh(lines, matrix, first, last, out):
    for i in range(out.shape[0]):
        for j in range(first[i], last[i]):
            weight = matrix[i, j]
            for x in range(out.shape[1]):
                out[i, x] += weight * lines[j, x]


def disk(radius: float, spread: float) -> Taps:
    """Make a disk whose rim is softened by a Gaussian of `spread` pixels (3 taps; 5 where the radius is above 8)."""
    soft = 1 if radius <= 8 else 2
    side = int(radius) + soft
    grid = np.arange(-side, side + 1)
    full = (grid[:, None] ** 2 + grid**2 <= radius**2).astype(np.float64)
    near = np.arange(-soft, soft + 1)
    bell = np.exp(-(near**2) / (2 * spread**2))
    made = np.zeros((2 * side + 1 + 2 * soft,) * 2)
    for i, j in np.ndindex(len(near), len(near)):
        made[i : i + len(full), j : j + len(full)] += bell[i] * bell[j] * full
    rows, columns = np.nonzero(made > 1e-9)
    weights = made[rows, columns]
    return Taps(rows - side - soft, columns - side - soft, (weights / weights.sum()).astype(np.float32))


def line(radius: int, sigma: float, degrees: float) -> Taps:
    """Make half a Gaussian of `sigma` pixels over 2 · radius + 1 pixels in one direction, as ImageMagick's motion
    blur."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    rows, columns = (np.ceil(steps * turn(np.deg2rad(degrees)) - 0.5).astype(np.int64) for turn in (np.sin, np.cos))
    return Taps(rows, columns, (weights / weights.sum()).astype(np.float32))


def correlate(image: np.ndarray, taps: Taps, border: Border) -> np.ndarray:
    """Set each pixel to the weighted sum of those that the taps read: f32 [H, W, C]."""
    reach = int(max(abs(taps.rows).max(), abs(taps.columns).max()))
    how = {"edge": "edge", "symmetric": "symmetric", "reflect": "reflect"}[border]
    padded = np.pad(image.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)), mode=how)
    out = np.zeros(image.shape, np.float32)
    channels = image.shape[2]
    lines = np.ascontiguousarray(padded).reshape(len(padded), -1), out.reshape(len(out), -1)
    _add(lines[0], reach + taps.rows, (reach + taps.columns) * channels, taps.weights, lines[1])
    return out


@njit(nogil=True, cache=True)
def _add(padded, rows, columns, weights, out):
    for y in range(out.shape[0]):  # a line stays in the L1 cache while all taps are added to it
        for k in range(len(weights)):
            weight, row, column = weights[k], rows[k] + y, columns[k]
            for x in range(out.shape[1]):
                out[y, x] += weight * padded[row, column + x]


def sample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray, border: Border) -> np.ndarray:
    """Read the image (f32) at the places rows, columns (f32 [H, W]), bilinearly, folded at the border: f32 [H, W,
    C]."""
    below = [np.floor(each).astype(np.int64) for each in (rows, columns)]
    shares = [(each - floor).astype(np.float32) for each, floor in zip((rows, columns), below, strict=True)]
    (top, bottom), (left, right) = (
        (fold(floor, n, border), fold(floor + 1, n, border)) for floor, n in zip(below, image.shape[:2], strict=True)
    )
    out = np.empty((*rows.shape, image.shape[2]), np.float32)
    _blend(np.ascontiguousarray(image), top, bottom, left, right, *shares, out)
    return out


@njit(nogil=True, cache=True)
def _blend(image, top, bottom, left, right, down, across, out):
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            a, b, c, d = top[y, x], bottom[y, x], left[y, x], right[y, x]
            v, u = down[y, x], across[y, x]
            for k in range(out.shape[2]):
                upper = image[a, c, k] * (1 - u) + image[a, d, k] * u
                lower = image[b, c, k] * (1 - u) + image[b, d, k] * u
                out[y, x, k] = upper * (1 - v) + lower * v
