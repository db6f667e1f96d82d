"""Draw what happens to each image: every random choice of a batch, on the host, before anything is decoded.

A plan depends on (seed, pass, image id, view) and on nothing else: not on rank, worker, back-end or place in the batch.
Executors (pipeline.executors) only carry it out, so all of them show the same views.

    spec = ViewSpec({"weak": (View(), rng.WEAK), "strong": (View(augment="usb"), rng.STRONG)}, size=224)
    plan = draw(spec, samples, heights, widths, seed=0)     # plan.params.boxes i32 [2, N, 4]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline import rng
from pipeline.rng_numba import fill_derived, fill_keys
from pipeline.sampling.sampler import SampleIds
from pipeline.spec import Data, Mask, Size, View, both_sides
from pipeline.views import colour_jitter, crop_flip, erase, masks, rand_augment


class ViewParams(NamedTuple):
    """What is done to make V views of N images, one array each, as the kernels take them.

    filters i8 [V]                                      how to resize, by number (crop_flip.FILTERS)
    boxes, insets, frames i32 [V, N, 4], flips bool [V, N]   where to cut (pipeline.views.crop_flip)
    ops i8 [V, N, L], args f32 [V, N, L]                what to change (pipeline.views.rand_augment)
    nearest bool [V], fill u8 [V, 3]                    how geometry reads between pixels and beyond the border
    erased i32 [V, N, 4], noise u64 [V, N]              what to erase, and its noise (pipeline.views.erase)
    noisy bool [V]                                      erase with noise instead of grey
    """

    boxes: np.ndarray
    insets: np.ndarray
    flips: np.ndarray
    frames: np.ndarray
    ops: np.ndarray
    args: np.ndarray
    nearest: np.ndarray
    fill: np.ndarray
    erased: np.ndarray
    noise: np.ndarray
    noisy: np.ndarray
    filters: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """What happens to N images.

    ids      i64 [N]
    names    of the V views
    size     their height and width, in pixels
    params   what is done to make them
    visible  i64 [N, K], or [N, W, K] in windows: patches that stay visible; None without a mask
    hidden   i64 [N, W, M], the windows' other patches; None without windows, where the hidden patches are the rest
    """

    ids: np.ndarray
    names: tuple[str, ...]
    size: tuple[int, int]
    params: ViewParams
    visible: np.ndarray | None
    hidden: np.ndarray | None


@dataclass(frozen=True)
class ViewSpec:
    """The views of one stream of images.

    views  by name, each with the RNG stream (pipeline.rng) that keeps its random numbers apart
    size   of each view, in pixels: height and width, or the side of a square, which is kept as both
    mask   which patches stay visible; None where a method hides none
    patch  side of a patch, in pixels
    """

    views: Mapping[str, tuple[View, int]]
    size: Size
    mask: Mask | None = None
    patch: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", both_sides(self.size))


def draw(spec: ViewSpec, samples: SampleIds, heights: np.ndarray, widths: np.ndarray, seed: int) -> Plan:
    """Draw everything random about N images, whose sizes are heights and widths (i64 [N]).

    Raises InputError where a view cannot be cut, or a mask cannot be drawn.
    """
    assert isinstance(spec.size, tuple)  # as __post_init__ leaves it
    size, streams = spec.size, [stream for _, stream in spec.views.values()]
    keys = np.empty((len(streams) + 1, len(samples.ids)), np.uint64)
    uses = np.array([*streams, rng.MASK], np.uint64)
    fill_keys(np.uint64(seed & 0xFFFFFFFFFFFFFFFF), samples.passes, samples.ids, uses, keys)
    views = [
        _draw_view(view, view_keys, heights, widths, size)
        for (view, _), view_keys in zip(spec.views.values(), keys[:-1], strict=True)
    ]
    masked = None, None
    if spec.mask:
        grid = size[0] // spec.patch, size[1] // spec.patch
        masked = masks.draw(spec.mask, _derived(keys[-1], streams[0])[0], grid)
    return Plan(samples.ids, tuple(spec.views), size, _stack(views), *masked)


def evaluation_spec(data: Data) -> ViewSpec:
    """Describe the one view that images are evaluated on."""
    return ViewSpec({"images": (data.evaluate, rng.WEAK)}, data.size)


def evaluation_plan(data: Data, ids: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> Plan:
    """Plan the evaluation view of images `ids`, whose sizes are heights and widths (all i64 [N])."""
    return draw(evaluation_spec(data), SampleIds(ids, np.zeros_like(ids)), heights, widths, seed=0)


def _draw_view(
    view: View, keys: np.ndarray, heights: np.ndarray, widths: np.ndarray, size: tuple[int, int]
) -> ViewParams:
    cut_keys, jitter_keys, augment_keys, erase_keys, noise_keys = _derived(keys, 1, 2, 3, 4, erase.NOISE)
    cut = crop_flip.draw(view, cut_keys, heights, widths, size)
    ops = [rand_augment.Ops(np.zeros((len(keys), 0), np.int8), np.zeros((len(keys), 0), np.float32))]
    sampling = rand_augment.SAMPLING["timm" if view.augment == "none" else view.augment]
    if view.jitter:
        ops.append(colour_jitter.draw(jitter_keys, *view.jitter, probability=view.jitter_probability))
    if view.augment != "none":
        ops.append(rand_augment.draw(view.augment, augment_keys, size, view.layers))
    erased = _draw_erased(view, erase_keys, size)
    return ViewParams(
        *cut,
        np.concatenate([each.ops for each in ops], 1),
        np.concatenate([each.args for each in ops], 1),
        np.array(sampling.nearest),
        np.array(sampling.fill, np.uint8),
        erased,
        noise_keys,
        np.array(view.erase == "random"),
        np.array(crop_flip.FILTERS.index(view.filter), np.int8),
    )


def _derived(parents: np.ndarray, *tags: int) -> np.ndarray:
    keys = np.empty((len(tags), len(parents)), np.uint64)
    fill_derived(parents, np.array(tags, np.uint64), keys)
    return keys


def _draw_erased(view: View, keys: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if view.erase == "none":
        return np.zeros((len(keys), 4), np.int32)
    return (erase.draw_cutout if view.erase == "cutout" else erase.draw_erasing)(keys, size)


def _stack(views: list[ViewParams]) -> ViewParams:
    layers = max(view.ops.shape[1] for view in views)

    def padded(a: np.ndarray) -> np.ndarray:
        zeros = np.zeros((len(a), layers - a.shape[1]), a.dtype)  # np.pad takes ten times as long
        return np.concatenate([a, zeros], 1)

    params = [view._replace(ops=padded(view.ops), args=padded(view.args)) for view in views]
    return ViewParams(*(np.concatenate([a[None] for a in arrays]) for arrays in zip(*params, strict=True)))
