"""Decomposed relative positions: a learned vector for each distance down and for each across (MViTv2; ViTDet).

    score(q, k) = q · k / sqrt(head_dim) + q · Rh[y_q - y_k] + q · Rw[x_q - x_k]

In a state dict, beside timm's names, and zero at first:

    blocks.<i>.attn.rel_pos_h   [2 h - 1, head_dim]   h, w: the sides of a window where block i has windows, else
    blocks.<i>.attn.rel_pos_w   [2 w - 1, head_dim]   those of the grid

They decay with the weights, as detectron2 decays all but norms and pos_embed, and learn at the rate of their block.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.layout import constant
from pipeline.errors import InputError

TABLES = "attn.rel_pos_h", "attn.rel_pos_w"


class Extent(NamedTuple):
    """Patches down and across of each sample of a group, and of what the tables are of: a window or the whole image."""

    down: int
    across: int
    window_down: int
    window_across: int


def add_axes(vit: VisionTransformer, window: int, whole: Sequence[int]) -> None:
    """Give a packed encoder a vector for each distance in each block, in place: add_axes(vit, 14, (3, 6, 9, 12)).

    window  side of the windows, in patches, of the blocks that are not in `whole`
    whole   numbers, from 1, of the blocks that attend over the whole image

    Raises InputError for an encoder with relative or rotary positions, and for varlen attention.
    """
    if vit.blocks[0].relative or getattr(vit, "rope", None) is not None:
        raise InputError("decomposed positions are added to absolute ones, got relative or rotary ones; leave them out")
    if any(block.attention == "varlen" for block in vit.blocks):
        raise InputError("attention varlen adds nothing to scores, decomposed positions must; choose attention sdpa")
    like = vit.patch_embed.proj.weight
    for number, block in enumerate(vit.blocks, 1):
        block.relative = True
        down, across = vit.patch_embed.grid_size if number in whole else (window, window)
        block.attn.rel_pos_h = nn.Parameter(like.new_zeros(2 * down - 1, block.attn.head_dim))
        block.attn.rel_pos_w = nn.Parameter(like.new_zeros(2 * across - 1, block.attn.head_dim))
    vit.axes = (window, tuple(whole))


def has_axes(vit: VisionTransformer) -> bool:
    """Whether an encoder has decomposed positions, which `models.dense.windows.window_features` computes."""
    return hasattr(vit.blocks[0].attn, "rel_pos_h")


def axes_attention(attn: nn.Module, q: Tensor, k: Tensor, v: Tensor, extent: Extent, dropout: float) -> Tensor:
    """Attend with decomposed positions: q, k, v [n, heads, T, head_dim], T patches in raster order -> the same shape.

    No [T, T] is held. Queries are continued by their products with the vectors of all rows and columns, keys by a one
    in their own row and column, so that the product of both is the score. q is not scaled before its products with the
    vectors (detectron2). Where `extent` is of a larger or smaller image than the tables, these are resampled linearly.
    """
    down, across = constant(extent.down), constant(extent.across)
    width, scale = q.shape[-1], q.shape[-1] ** -0.5
    squares = q.unflatten(2, (down, across))
    rows = torch.einsum("nhyxd,yjd->nhyxj", squares, _vectors(attn.rel_pos_h, down, extent.window_down, q.dtype))
    columns = torch.einsum("nhyxd,xjd->nhyxj", squares, _vectors(attn.rel_pos_w, across, extent.window_across, q.dtype))
    room = -(width + down + across) % 8  # fused kernels take widths that 8 divides
    products = F.pad(torch.cat([rows, columns], -1).flatten(2, 3) / scale, (0, room))
    row, column = (torch.eye(side, dtype=k.dtype, device=k.device) for side in (down, across))
    own = F.pad(torch.cat([row.repeat_interleave(across, 0), column.repeat(down, 1)], 1), (0, room))
    longer_q = torch.cat([q, products], -1)
    longer_k = torch.cat([k, own.expand(*k.shape[:2], -1, -1)], -1)
    # v is padded because flash attention, on CPUs and on CUDA, wants one width, and what else there is holds [T, T]
    longer_v = F.pad(v, (0, longer_q.shape[-1] - width))
    return F.scaled_dot_product_attention(longer_q, longer_k, longer_v, dropout_p=dropout, scale=scale)[..., :width]


def _vectors(table: Tensor, side: int, window: int, dtype: torch.dtype) -> Tensor:
    """The vector of each pair of places along a side, query first, of a table for `window` places: [side, side, d]."""
    if len(table) != 2 * window - 1:  # detectron2: get_rel_pos
        table = F.interpolate(table.T[None], size=2 * window - 1, mode="linear")[0].T
    place = torch.arange(side, device=table.device)
    # embedding, as the gradient of table[...] is summed by several threads in whatever order they come
    return F.embedding(place[:, None] - place[None] + window - 1, table.to(dtype))
