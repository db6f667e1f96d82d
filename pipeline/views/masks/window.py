"""Windows with a random mask in each (LoMaR): each window is encoded by itself, and the rest of the image is not.

Places and masks are drawn for each image. The authors' code draws the places once a batch, and pairs images and places
in two different orders: at its own batch sizes (multiples of `windows`) an image gets one place several times.
"""

import numpy as np

from pipeline import rng
from pipeline.errors import InputError
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
    n, side, windows = len(keys), mask.window, mask.windows
    hidden, (rows, columns) = hidden_of_window(mask, grid), (length - side + 1 for length in grid)
    place_keys, mask_keys = rng.derive(keys, (1, 2))
    different = 1 if mask.same_place else windows
    places = np.argpartition(rng.uniforms(place_keys, rows * columns), different - 1, axis=1)[:, :different]
    places = np.sort(np.broadcast_to(places, (n, windows)), axis=1)
    first = places // columns * grid[1] + places % columns  # upper left patch
    inside = (np.arange(side)[:, None] * grid[1] + np.arange(side)).ravel()
    noise = rng.uniforms(mask_keys, windows * side * side).reshape(n, windows, side * side)
    by_noise = np.argpartition(noise, hidden, axis=2)
    parts = (np.sort(part, axis=2) for part in (by_noise[:, :, hidden:], by_noise[:, :, :hidden]))
    visible_ids, hidden_ids = (first[:, :, None] + inside[part] for part in parts)
    return visible_ids, hidden_ids
