"""Fit positions to the encoder's grid: which grid the source's are of, and how they are resampled to another.

held, note = fitted_positions(found, held, own, encoder)     # "positions resampled from 14 x 14 to 14 x 7 patches"

A table of positions does not tell its grid: 98 patches are 14 x 7 or 7 x 14. A run and our exports say it; of other
sources a square is assumed where the number of patches is one.
"""

from collections.abc import Mapping
from math import isqrt, prod

from torch import Tensor, nn

from models.encoder.positions import prefix_positions, resampled
from models.encoder.relative import resampled_bias
from models.pretrained.weights import Weights

POSITIONS, BIASES = "pos_embed", "relative_position_bias_table"

Grid = tuple[int, int]
Held = dict[str, Tensor]


def grid_of_recipe(recipe: object) -> Grid | None:
    """The patches down and across of a run's images, by its recipe as JSON; None if it does not say."""
    data, encoder = ((recipe or {}).get(part) if isinstance(recipe, Mapping) else None for part in ("data", "encoder"))
    if not (isinstance(data, Mapping) and isinstance(encoder, Mapping)):
        return None
    return grid(data.get("size"), encoder.get("patch"))


def grid_of_config(config: Mapping[str, object]) -> Grid | None:
    """The patches down and across by a config.json of timm (model_args) or of Hugging Face, or by open_clip's; None if
    it does not say."""
    built = config.get("model_args")
    if isinstance(built, Mapping):
        return grid(built.get("img_size"), built.get("patch_size"))
    model = config.get("model_cfg")
    tower = model.get("vision_cfg") if isinstance(model, Mapping) else None
    if isinstance(tower, Mapping):
        return grid(tower.get("image_size"), tower.get("patch_size"))
    return grid(config.get("image_size"), config.get("patch_size"))


def fitted_positions(found: Weights, held: Held, own: Held, encoder: nn.Module) -> tuple[Held, str | None]:
    """Resample a table of positions [1, prefix + L, C], learned or of sines, to the encoder's grid, bicubically as MAE.

    -> the tensors, and a note on what was done or assumed. A table whose grid is not known stays as it is.
    """
    theirs, ours, prefix = held.get(POSITIONS), own.get(POSITIONS), prefix_positions(encoder)
    if theirs is None or ours is None or theirs.ndim != 3 or theirs.shape[-1] != ours.shape[-1]:
        return held, None
    count, stated, after = theirs.shape[1] - prefix, stated_grid(found), _own_grid(encoder)
    before = stated if stated and prod(stated) == count else _square(count)
    if before is None:
        return held, _assumed("positions", after) if theirs.shape == ours.shape else None
    if before == after:
        return held, None
    table = resampled(theirs.float(), before, after, prefix)
    return held | {POSITIONS: table}, _resampled("positions", before, after)


def fitted_biases(found: Weights, held: Held, own: Held, encoder: nn.Module) -> tuple[Held, str | None]:
    """Resample tables of position biases to the encoder's grid, as it does itself for images of another size.

    -> the tensors, and a note on what was done or assumed. A table whose grid is not known stays as it is.
    """
    fitted, note, stated, after = {}, None, stated_grid(found), _own_grid(encoder)
    for name, table in held.items():
        ours = own.get(name)
        if not name.endswith(BIASES) or ours is None or table.shape[1:] != ours.shape[1:]:
            continue
        before = stated if stated and _entries(stated) == len(table) else _square_of_differences(len(table))
        if before is None:
            note = _assumed("position biases", after) if table.shape == ours.shape else note
        elif before != after:
            fitted[name] = resampled_bias(table.float(), before, after)
            note = _resampled("position biases", before, after)
    return held | fitted, note


def _own_grid(encoder: nn.Module) -> Grid:
    down, across = encoder.patch_embed.grid_size
    return down, across


def stated_grid(found: Weights) -> Grid | None:
    """The patches down and across that a source says its positions are of; None if it does not say."""
    return found.grid or grid_of_config(found.config)


def grid(size: object, patch: object) -> Grid | None:
    """Count the patches down and across of images of a size; None for what is no size or no patch."""
    sides = size if isinstance(size, list | tuple) else (size, size)
    patches = patch if isinstance(patch, list | tuple) else (patch, patch)
    numbers = [each for each in (*sides, *patches) if isinstance(each, int) and each > 0]
    if len(sides) != 2 or len(numbers) != 4:
        return None
    height, width, down, across = numbers
    return height // down, width // across


def _entries(grid: Grid) -> int:
    """Count the rows of a table of position differences, [(2h - 1)(2w - 1) + 3, heads]."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def _square(patches: int) -> Grid | None:
    side = isqrt(max(0, patches))
    return (side, side) if side and side**2 == patches else None


def _square_of_differences(entries: int) -> Grid | None:
    """The square grid whose table of differences has so many rows; None if there is none."""
    side = (isqrt(max(0, entries - 3)) + 1) // 2
    return (side, side) if side and _entries((side, side)) == entries else None


def _assumed(what: str, grid: Grid) -> str:
    return f"{what} taken to be of {grid[0]} x {grid[1]} patches, which their source does not say"


def _resampled(what: str, before: Grid, after: Grid) -> str:
    return f"{what} resampled from {before[0]} x {before[1]} to {after[0]} x {after[1]} patches"
