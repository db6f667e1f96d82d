"""What happens to each image: every random choice of a batch, drawn on the host before anything is decoded.

A plan depends on (seed, pass, image id, view) and on nothing else: not on rank, worker, back-end or place in the batch.
Executors (numba on the CPU, torch on a GPU) only carry it out, so all of them show the same views.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline import rng
from pipeline.errors import InputError
from pipeline.order import Picks
from pipeline.spec import Mask, View
from pipeline.views import (
    colour_jitter,
    crop_flip,
    erase,
    mask_block,
    mask_grid,
    mask_random,
    mask_unit,
    mask_window,
    rand_augment,
)

MASKS = {"random": mask_random.draw, "block": mask_block.draw, "grid": mask_grid.draw}


class Stacked(NamedTuple):
    """V views of N images, one array each, as the kernels take them.

    boxes, insets i32 [V, N, 4], flips bool [V, N]      where to cut (pipeline.views.crop_flip)
    ops i8 [V, N, L], args f32 [V, N, L]                what to change (pipeline.views.rand_augment)
    nearest bool [V], fill u8 [V, 3]                    how geometry reads between and beyond pixels
    erased i32 [V, N, 4], noise u64 [V, N]              what to erase, and its noise (pipeline.views.erase)
    noisy bool [V]                                      erase with noise instead of grey
    """

    boxes: np.ndarray
    insets: np.ndarray
    flips: np.ndarray
    ops: np.ndarray
    args: np.ndarray
    nearest: np.ndarray
    fill: np.ndarray
    erased: np.ndarray
    noise: np.ndarray
    noisy: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """What happens to N images.

    ids      i64 [N]
    names    of the V views; `size` is their side, `stacked` their choices
    visible  i64 [N, K] where a mask was asked for; [N, W, K] in windows
    hidden   i64 [N, W, M], the windows' other patches; None where no windows were asked for: simply the rest
    """

    ids: np.ndarray
    names: tuple[str, ...]
    size: int
    stacked: Stacked
    visible: np.ndarray | None
    hidden: np.ndarray | None


@dataclass(frozen=True)
class Wanted:
    """The views of one stream: by name, with the RNG stream that keeps their numbers apart; all of one size."""

    views: Mapping[str, tuple[View, int]]
    size: int
    mask: Mask | None = None
    patch: int = 16


def visible_patches(mask: Mask, grid: int) -> int:
    """Patches of each image (of each window) that stay visible; InputError where nothing would be left, or hidden.

    MAE's count, floor(L (1 - ratio)) of the L = grid² patches; SimMIM's and LoMaR's where units or windows are hidden.
    """
    if mask.kind == "window":
        return mask.window**2 - mask_window.hidden_of_window(mask, grid)
    total = grid * grid
    visible = int(total * (1 - mask.ratio) + 1e-9)  # 0.8 of 10 is 8, not 7.999...
    if mask.kind == "unit":
        visible = total - mask.unit**2 * mask_unit.hidden_units(mask.ratio, mask.unit, grid)
    if not 0 < visible < total:
        raise InputError(
            f"mask ratio {mask.ratio:g} leaves {visible} of {total} patches visible; choose between 0 and 1"
        )
    return visible


def draw(wanted: Wanted, picks: Picks, heights: np.ndarray, widths: np.ndarray, seed: int) -> Plan:
    """Draw everything random about the picked images, whose sizes are heights and widths (i64 [N])."""
    streams = [stream for _, stream in wanted.views.values()]
    *keys, mask_keys = rng.keys(seed, picks.passes, picks.ids, (*streams, rng.MASK))
    views = [
        _draw_view(view, view_keys, heights, widths, wanted.size)
        for (view, _), view_keys in zip(wanted.views.values(), keys, strict=True)
    ]
    masked = None, None
    if wanted.mask:
        masked = draw_mask(wanted.mask, rng.derive(mask_keys, streams[0]), wanted.size // wanted.patch)
    return Plan(picks.ids, tuple(wanted.views), wanted.size, _stack(views), *masked)


def draw_mask(mask: Mask, keys: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Ids of the visible patches and, in windows, of the hidden ones (see Plan), for each of the keys u64 [N]."""
    if mask.kind == "window":
        return mask_window.draw(keys, grid, mask)
    visible = visible_patches(mask, grid)
    if mask.kind == "unit":
        return mask_unit.draw(keys, grid, mask.unit, (grid * grid - visible) // mask.unit**2), None
    return MASKS[mask.kind](keys, grid, visible), None


def _draw_view(view: View, keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: int) -> Stacked:
    cut_keys, jitter_keys, augment_keys, erase_keys = rng.derive(keys, (1, 2, 3, 4))
    cut = crop_flip.draw(view, cut_keys, heights, widths, size)
    ops = [rand_augment.Ops(np.zeros((len(keys), 0), np.int8), np.zeros((len(keys), 0), np.float32))]
    sampling = rand_augment.SAMPLING["timm" if view.augment == "none" else view.augment]
    if view.jitter:
        ops.append(colour_jitter.draw(jitter_keys, *view.jitter, probability=view.jitter_probability))
    if view.augment != "none":
        ops.append(rand_augment.draw(view.augment, augment_keys, size, view.layers))
    erased = _draw_erased(view, erase_keys, size)
    return Stacked(
        *cut,
        np.concatenate([each.ops for each in ops], 1),
        np.concatenate([each.args for each in ops], 1),
        np.array(sampling.nearest),
        np.array(sampling.fill, np.uint8),
        erased,
        erase.noise_keys(keys),
        np.array(view.erase == "random"),
    )


def _draw_erased(view: View, keys: np.ndarray, size: int) -> np.ndarray:
    if view.erase == "none":
        return np.zeros((len(keys), 4), np.int32)
    return (erase.draw_cutout if view.erase == "cutout" else erase.draw_erasing)(keys, size)


def _stack(views: list[Stacked]) -> Stacked:
    layers = max(view.ops.shape[1] for view in views)

    def padded(a: np.ndarray) -> np.ndarray:
        none = np.zeros((len(a), layers - a.shape[1]), a.dtype)  # np.pad takes ten times as long
        return np.concatenate([a, none], 1)

    even = [view._replace(ops=padded(view.ops), args=padded(view.args)) for view in views]
    return Stacked(*(np.concatenate([a[None] for a in arrays]) for arrays in zip(*even, strict=True)))
