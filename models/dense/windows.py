"""Features of a ViT whose blocks attend within windows, but for a few over the whole image (ViTDet, Li et al. 2022).

features = window_features(vit, images, 14, global_blocks(12))     # [N, C, h, w]: cost grows with the pixels, not h²w²
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from models.encoder.axes import Extent, has_axes
from models.encoder.layout import Layout
from models.encoder.packed import Factors, Pairs, Turns
from models.encoder.patches import grid_of
from models.encoder.relative import pairs
from models.encoder.vit import FullImages, all_drop_factors, all_turns, embed, run_block
from pipeline.errors import InputError

Grid = tuple[int, int]


def window_features(vit: VisionTransformer, images: Tensor, window: int, whole: Sequence[int]) -> Tensor:
    """Compute the last block's output as a picture [N, C, h, w] of the patches, not normed (as ViTDet reads it).

    images  u8 [N, 3, H, W], or float, normalised already
    window  side of the squares of patches, from the upper left corner, within which blocks attend
    whole   numbers, from 1, of the blocks that attend over the whole image

    Prefix tokens are left out behind the embedding, as detectron2 drops the class token. Where `window` does not divide
    the grid, the windows at the right and lower edge are smaller, and nothing is padded. detectron2 pads them with
    zeros, which take part in attention: both are the same where it divides. Stochastic depth drops whole images.
    Relative and rotary positions are those of the whole image's patches.

    Raises InputError for a window below 1, and for decomposed positions that were added for other windows.
    """
    _check(vit, window, whole)
    grid, n, prefix = grid_of(images, vit.patch_embed.patch_size[0]), len(images), vit.num_prefix_tokens
    group = FullImages(images, pooled=False)
    x, layout = embed(vit, [group])
    turns = all_turns(vit, [group], layout)
    x = _patches_alone(x, n, prefix)
    views = {False: _whole(n, grid, x.device), True: _windows(n, grid, window, x.device)}
    inside = [number not in whole for number in range(1, len(vit.blocks) + 1)]
    positions = {key: _pairs(vit, grid, views[key]) for key in set(inside)}
    drops, turned, now = all_drop_factors(vit, x, views[False].layout), _Turned(n, prefix), False
    for block, windowed, each in zip(vit.blocks, inside, drops, strict=True):
        view = views[windowed]
        if windowed != now:
            x, now = _moved(x, views[True], back=now), windowed
        own = tuple(view.per_image(factors) for factors in each)
        x = run_block(vit, block, x, view.layout, None, positions[windowed], turned(next(turns), view), own)
    x = _moved(x, views[True], back=True) if now else x
    return x.unflatten(0, (n, -1)).transpose(1, 2).unflatten(2, grid)


def global_blocks(depth: int, given: Sequence[int] = ()) -> tuple[int, ...]:
    """The blocks, counted from 1, that attend over the whole image: those given, else a quarter, half, three quarters
    and all of the depth: 3, 6, 9, 12 of 12 and 6, 12, 18, 24 of 24 (ViTDet section 3).

    Raises InputError unless they ascend from 1 to at most the depth.
    """
    if not given:
        return tuple(sorted({-(-depth * quarter // 4) for quarter in (1, 2, 3, 4)}))
    if list(given) != sorted(set(given)) or given[0] < 1 or given[-1] > depth:
        came = " ".join(map(str, given))
        raise InputError(
            f"method.global_blocks is {came}, expected ascending numbers from 1 to {depth}, the depth of the encoder"
        )
    return tuple(given)


def _check(vit: VisionTransformer, window: int, whole: Sequence[int]) -> None:
    if window < 1:
        raise InputError(f"windows have sides of 1 patch or more, got {window}; set it to 14, as ViTDet has")
    if has_axes(vit) and vit.axes != (window, tuple(whole)):
        raise InputError(
            f"decomposed positions were added for windows and whole blocks {vit.axes}, got {(window, tuple(whole))}; "
            "give add_axes and window_features the same"
        )


@final
@dataclass(frozen=True, eq=False)
class _View:
    """How rows are grouped: each window is a sample, or each image.

    order, inverse  i64 [rows]     the rows of images in the order of this view, and back; None means as they are
    images          i64 [samples]  the image of each sample; None: each is its own
    ids             i64 [1, K]     the patches of the first window of each group
    extents         patches down and across of each group's windows, and of a window that is not at an edge
    """

    layout: Layout
    order: Tensor | None
    inverse: Tensor | None
    images: Tensor | None
    ids: tuple[Tensor, ...]
    extents: tuple[Extent, ...]

    def per_image(self, factors: Factors) -> Factors:
        """Repeat the factors of images, [N, 1], for each of their windows: stochastic depth drops an image whole."""
        return factors if factors is None or self.images is None else factors.index_select(0, self.images)


@lru_cache(maxsize=16)
def _whole(n: int, grid: Grid, device: torch.device) -> _View:
    with torch.inference_mode(False):  # a tensor born in inference mode could not be used by a later step
        ids = torch.arange(grid[0] * grid[1], device=device)[None]
    return _View(Layout(((n, ids.shape[1]),), (True,)), None, None, None, (ids,), (Extent(*grid, *grid),))


@lru_cache(maxsize=16)
def _windows(n: int, grid: Grid, window: int, device: torch.device) -> _View:
    """The windows of n images: first those inside, then those at the right, at the lower edge and in the corner, each
    group image after image."""
    with torch.inference_mode(False):
        ids = torch.arange(grid[0] * grid[1], device=device).view(grid)
        first = torch.arange(n, device=device) * ids.numel()
        down, across = (side - side % window for side in grid)
        parts = ids[:down, :across], ids[:down, across:], ids[down:, :across], ids[down:, across:]
        heights, widths = (window, window, grid[0] - down, grid[0] - down), (window, grid[1] - across) * 2
        held = [(_cut(part, h, w), h, w) for part, h, w in zip(parts, heights, widths, strict=True) if part.numel()]
        order = torch.cat([(first[:, None, None] + cells).flatten() for cells, _, _ in held])
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=device))
        image = torch.arange(n, device=device)[:, None]
        images = torch.cat([image.expand(-1, len(cells)).flatten() for cells, _, _ in held])
    layout = Layout(tuple((n * len(cells), cells.shape[1]) for cells, _, _ in held), (True,) * len(held))
    extents = tuple(Extent(height, width, window, window) for _, height, width in held)
    return _View(layout, order, inverse, images, tuple(cells[:1] for cells, _, _ in held), extents)


def _cut(ids: Tensor, height: int, width: int) -> Tensor:
    """The patches of each window, raster order: [h, w] -> [windows, height · width]."""
    return ids.unflatten(1, (-1, width)).unflatten(0, (-1, height)).transpose(1, 2).flatten(2).flatten(0, 1)


def _pairs(vit: VisionTransformer, grid: Grid, view: _View) -> Pairs:
    if not vit.blocks[0].relative:
        return None
    if has_axes(vit):
        return view.extents
    return tuple(pairs(vit, grid, ids, ids.device, prefix=0) for ids in view.ids)


def _patches_alone(x: Tensor, n: int, prefix: int) -> Tensor:
    """Leave out the prefix of each image: [n · (prefix + L), ...] -> [n · L, ...]."""
    return x if prefix == 0 else x.unflatten(0, (n, -1))[:, prefix:].flatten(0, 1)


@final
class _Turned:
    """The sines and cosines of a view's rows, made anew only where a block has others than the block before."""

    def __init__(self, n: int, prefix: int) -> None:
        self.n, self.prefix, self.turns = n, prefix, None
        self.held: dict[int, Tensor] = {}

    def __call__(self, turns: Turns, view: _View) -> Turns:
        if turns is None:
            return None
        if turns is not self.turns:
            self.turns, self.held = turns, {}
        if id(view) not in self.held:
            rows = _patches_alone(turns, self.n, self.prefix)
            self.held[id(view)] = rows if view.order is None else _moved(rows, view)
        return self.held[id(view)]


def _moved(x: Tensor, view: _View, *, back: bool = False) -> Tensor:
    """Bring the rows of images into the order of a view, or back."""
    there, again = (view.inverse, view.order) if back else (view.order, view.inverse)
    return _Reorder.apply(x, there, again)


@final
class _Reorder(torch.autograd.Function):
    """x[order], whose gradient is read in the inverse order: each row is moved once, and nothing is summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # ty: ignore[incompatible-method-override]
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None
