"""Masks: which patches of an image the encoder may see. One kind is one file, and `data.mask.kind` is its name.

A file of this room has two functions, which take the grid as patches down and across. `visible_count(mask, grid)` says
how many patches of an image stay visible (of each window, where the mask cuts windows). `draw(mask, keys, grid)` draws
them for N images from random keys (u64 [N]): ids i64 [N, K] ascending and None, or [N, W, K] and the windows' hidden
patches [N, W, M]. The two functions of this name here also take the side of a square grid.

    visible, hidden = masks.draw(Mask("block", ratio=0.5), keys, grid=14)

A file may draw with `rng`, which is numpy, or compiled, with `rng_numba`, as the files here do: a thread that launches
kernels for a GPU is not kept waiting meanwhile.

May import `spec`, `rng`, `rng_numba` and `errors`. Read `random.py` first.
"""

import importlib
import pkgutil
from functools import cache
from types import ModuleType

import numpy as np

from pipeline.errors import InputError
from pipeline.spec import Mask, Size
from pipeline.text import did_you_mean


def kinds() -> list[str]:
    """List the kinds of mask that there are: the names of this folder's files."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


def visible_count(mask: Mask, grid: Size) -> int:
    """Count the patches of each image (of each window) that stay visible.

    Raises InputError for an unknown kind, and where nothing would be left or hidden.

        visible_count(Mask(ratio=0.75), grid=14)  # 49; of grid=(14, 7) 24
    """
    return _module(mask.kind).visible_count(mask, _both(grid))


def draw(mask: Mask, keys: np.ndarray, grid: Size) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw the ids of the visible patches and, in windows, of the hidden ones, for each of the keys (u64 [N])."""
    return _module(mask.kind).draw(mask, keys, _both(grid))


def share_visible(mask: Mask, grid: tuple[int, int]) -> int:
    """Count the patches that MAE leaves visible: floor(L (1 - ratio)) of the L patches of a grid.

    Raises InputError unless 1 to L - 1 are left.
    """
    total = grid[0] * grid[1]
    return checked(mask, int(total * (1 - mask.ratio) + 1e-9), total)  # 0.8 of 10 is 8, not 7.999...


def checked(mask: Mask, visible: int, total: int) -> int:
    """Return `visible` if some of the `total` patches are visible and some are hidden, else raise InputError."""
    if not 0 < visible < total:
        other = "higher" if visible else "lower"
        raise InputError(f"mask ratio {mask.ratio:g} leaves {visible} of {total} patches visible; choose a {other} one")
    return visible


def _both(grid: Size) -> tuple[int, int]:
    return grid if isinstance(grid, tuple) else (grid, grid)  # in a training step it is a pair


@cache
def _module(kind: str) -> ModuleType:
    if kind not in kinds():
        near = did_you_mean(kind, kinds()) or f"; there are {', '.join(kinds())}"
        raise InputError(f"data.mask.kind is {kind!r}, and no mask is called so{near}")
    return importlib.import_module(f"{__name__}.{kind}")
