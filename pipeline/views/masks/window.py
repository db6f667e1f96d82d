"""Windows with a random mask in each (LoMaR): each window is encoded by itself, and the rest of the image is not.

Places and masks are drawn for each image. The authors' code draws the places once a batch, and pairs images and places
in two different orders: at its own batch sizes (multiples of `windows`) an image gets one place several times.
"""

import numpy as np
from numba import njit

from pipeline.errors import InputError
from pipeline.rng_numba import bits, derive, lowest, places
from pipeline.spec import Mask


def hidden_of_window(mask: Mask, grid: tuple[int, int]) -> int:
    """Count the hidden patches of a window as LoMaR does, int(ratio · window²).

    Raises InputError where the windows do not fit, or where nothing would be hidden or visible.
    """
    down, across = grid
    if not 1 <= mask.window <= min(grid):
        raise InputError(
            f"a window of {mask.window} x {mask.window} patches does not fit a grid of {down} x {across}; "
            "lower data.mask.window"
        )
    places = (down - mask.window + 1) * (across - mask.window + 1)
    if mask.windows > places and not mask.same_place:
        raise InputError(
            f"a grid of {down} x {across} has {places} places for a window of {mask.window} x {mask.window} patches, "
            f"{mask.windows} were asked for; lower data.mask.windows"
        )
    patches = mask.window * mask.window
    hidden = int(mask.ratio * patches + 1e-9)
    if not 0 < hidden < patches:
        other = "lower" if hidden else "higher"
        raise InputError(
            f"mask ratio {mask.ratio:g} hides {hidden} of a window's {patches} patches; choose a {other} one"
        )
    return hidden


def visible_count(mask: Mask, grid: tuple[int, int]) -> int:
    """Count the visible patches of a window: all but the hidden ones."""
    return mask.window**2 - hidden_of_window(mask, grid)


def draw(mask: Mask, keys: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw the ids of each window's visible and hidden patches in the whole grid, i64 [N, W, K] and [N, W, M],
    ascending.

    An image's windows lie at different places, each equally likely, in raster order; their masks are independent.
    """
    side, hidden = mask.window, hidden_of_window(mask, grid)
    visible_ids = np.empty((len(keys), mask.windows, side * side - hidden), np.int64)
    hidden_ids = np.empty((len(keys), mask.windows, hidden), np.int64)
    _draw(keys, grid, side, mask.same_place, visible_ids, hidden_ids)
    return visible_ids, hidden_ids


@njit(nogil=True, cache=True)
def _draw(keys, grid, side, same_place, visible_ids, hidden_ids):
    windows, hidden, patches = hidden_ids.shape[1], hidden_ids.shape[2], side * side
    columns = grid[1] - side + 1
    total = (grid[0] - side + 1) * columns
    noise, chosen = np.empty(max(total, patches), np.uint64), np.empty(max(total, patches), np.bool_)
    corners = np.empty(1 if same_place else windows, np.int64)
    for i in range(len(keys)):
        place_key, mask_key = derive(keys[i], 1), derive(keys[i], 2)
        for place in range(total):
            noise[place] = bits(place_key, place)
        lowest(noise[:total], len(corners), chosen)
        places(chosen[:total], corners)
        for window in range(windows):
            corner = corners[min(window, len(corners) - 1)]
            first = corner // columns * grid[1] + corner % columns  # upper left patch
            for patch in range(patches):
                noise[patch] = bits(mask_key, window * patches + patch)
            lowest(noise[:patches], hidden, chosen)
            n_hidden = n_visible = 0
            for patch in range(patches):
                at = first + patch // side * grid[1] + patch % side
                if chosen[patch]:
                    hidden_ids[i, window, n_hidden] = at
                    n_hidden += 1
                else:
                    visible_ids[i, window, n_visible] = at
                    n_visible += 1
