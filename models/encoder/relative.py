"""Positions as differences: what attention adds to q · k for each pair of tokens, in place of absolute positions.

Three kinds, behind one seam. Once a step and group, `pairs` says which entry of a table each pair of tokens has; in
each block, `attention_bias` makes of it (and of the queries) what is added to the scaled scores. In a state dict:

    blocks.<i>.attn.rpe_k.lookup_table_weight   [1, head_dim, 50]   irpe: a table a block (iRPE's and LoMaR's name)
    rel_pos_bias.relative_position_bias_table   [(2h - 1)(2w - 1) + 3, heads]   bias: one table (SimMIM's, BEiT's name)
    blocks.<i>.attn.relative_position_bias_table   block_bias: the same, one a block; SimMIM and BEiT fine-tune with it

and everything else is timm's; `pos_embed` is absent. Both tables start at zero, and both decay with the weights, as in
the authors' code (SimMIM, BEiT and LoMaR spare vectors, tokens and pos_embed alone; timm's Beit spares its table, too).
"""

from collections.abc import Iterable
from typing import Literal, final, get_args

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pipeline.errors import InputError

Kind = Literal["irpe", "bias", "block_bias"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHARED, OWN = "rel_pos_bias.relative_position_bias_table", "attn.relative_position_bias_table"
BUCKETS, PREFIX_BUCKET = 50, 49


def add_relative(vit: VisionTransformer, kind: Kind) -> None:
    """Give a packed encoder its tables, in place. Raises InputError for varlen attention, which takes no bias."""
    if any(block.attention == "varlen" for block in vit.blocks):
        raise InputError(f"attention varlen adds nothing to scores, position {kind} must; choose attention sdpa")
    grid, heads = tuple(vit.patch_embed.grid_size), vit.blocks[0].attn.num_heads
    if kind == "bias":
        vit.rel_pos_bias = PositionBias(grid, heads)
    for block in vit.blocks:
        block.relative = True
        if kind == "irpe":
            block.attn.rpe_k = ContextualPositions(block.attn.head_dim)
        if kind == "block_bias":
            block.attn.relative_position_bias_table = empty_table(grid, heads)


def pairs(vit: VisionTransformer, grid: tuple[int, int], ids: Tensor | None, device: torch.device) -> Tensor | None:
    """What the blocks need to know about the pairs of a group's tokens; None for an encoder without relative positions.

    grid  patches down and across of the group's images
    ids   i64 [n, K]  the patches of each image, in the order of their tokens; None means all, in raster order

    irpe, block_bias: i64 [n, T, T], query first; bias: float [n, heads, T, T]; n is 1 where all images have the same.
    Raises InputError for block_bias and images of another size than the encoder's.
    """
    if not vit.blocks[0].relative:
        return None
    if ids is None:
        ids = torch.arange(grid[0] * grid[1], device=device)[None]
    if (shared := getattr(vit, "rel_pos_bias", None)) is not None:
        return shared(ids, grid, vit.num_prefix_tokens)
    if hasattr(vit.blocks[0].attn, "rpe_k"):
        return irpe_buckets(ids, grid[1], vit.num_prefix_tokens)
    if tuple(grid) != (own := tuple(vit.patch_embed.grid_size)):
        raise InputError(f"position block_bias is of {own} patches, got images of {tuple(grid)}; use one data.size")
    return bias_entries(ids, grid, vit.num_prefix_tokens)


def attention_bias(attn: nn.Module, q: Tensor, pairs: Tensor) -> Tensor:
    """[n or 1, heads, queries, T]: what is added to scaled scores. q is [n, heads, queries, head_dim]; the first
    queries of T tokens may be all there are."""
    if (contextual := getattr(attn, "rpe_k", None)) is not None:
        return contextual(q, pairs)
    if (table := getattr(attn, "relative_position_bias_table", None)) is not None:
        return looked_up(table.to(q.dtype), pairs[:, : q.shape[2]])
    return pairs[:, :, : q.shape[2]]


def kind_of(names: Iterable[str]) -> str:
    """Whose positions a state dict of an encoder holds, as encoder.position says it."""
    found = set(names)
    if SHARED in found:
        return "bias"
    if f"blocks.0.{OWN}" in found:
        return "block_bias"
    if "blocks.0.attn.rpe_k.lookup_table_weight" in found:
        return "irpe"
    return "learned or sincos" if "pos_embed" in found else "none"


def bias_for_each_block(held: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """An encoder's state with one shared bias as one with a table a block, all the same (SimMIM's fine-tuning)."""
    rest = {name: tensor for name, tensor in held.items() if name != SHARED}
    return rest | {f"blocks.{number}.{OWN}": held[SHARED] for number in range(depth)}


@final
class ContextualPositions(nn.Module):
    """iRPE on keys, contextual, product method, shared over heads (Wu et al. 2021; LoMaR code).

    The bias of a pair is q · table[bucket]. As LoMaR released it, q is not scaled by head_dim^-0.5; iRPE's own DeiT
    scales it first: the same functions, with tables larger by head_dim^0.5, so divide by that to start from one.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.lookup_table_weight = nn.Parameter(torch.zeros(1, head_dim, BUCKETS))

    def forward(self, q: Tensor, buckets: Tensor) -> Tensor:
        """q [n, heads, queries, head_dim], buckets i64 [n or 1, T, T] -> [n, heads, queries, T]."""
        each = q @ self.lookup_table_weight
        wanted = buckets[:, None, : q.shape[2]].expand(*q.shape[:3], -1)
        return each.gather(-1, wanted)


def irpe_buckets(ids: Tensor, across: int, prefix: int) -> Tensor:
    """i64 [n, prefix + K, prefix + K]: 7 (f(dy) + 3) + f(dx) + 3 of query minus key, 49 with a prefix token.

    f keeps the sign and puts |d| into 0, 1, {2, 3} and {4, ...}: iRPE's piecewise index (eq. 18) at alpha 1.9, beta
    3.8, gamma 15.2. It knows no grid: windows, images and images of another size use the same table.
    """
    down, over = (_piecewise(difference) + 3 for difference in _differences(ids, across))
    return F.pad(7 * down + over, (prefix, 0, prefix, 0), value=PREFIX_BUCKET)


def _piecewise(difference: Tensor) -> Tensor:
    far = difference.abs()
    return difference.sign() * ((far >= 1).long() + (far >= 2).long() + (far >= 4).long())


def _differences(ids: Tensor, across: int) -> tuple[Tensor, Tensor]:
    """Down and across, query minus key, i64 [n, K, K] each."""
    y, x = ids // across, ids % across
    return y[:, :, None] - y[:, None, :], x[:, :, None] - x[:, None, :]


@final
class PositionBias(nn.Module):
    """One number a head for each difference of patches, shared by all blocks (BEiT; SimMIM pre-trains its ViT with it).

    Three more stand for prefix to patch, patch to prefix, prefix to prefix. For images of another size than `grid` the
    table is resampled: the same image in fewer patches has the same differences in larger steps.
    """

    def __init__(self, grid: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.grid = grid
        self.relative_position_bias_table = empty_table(grid, heads)

    def forward(self, ids: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
        """i64 [n, K] of a grid -> [n, heads, prefix + K, prefix + K], in autocast's type where it is on."""
        table, device = self.table(grid), ids.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            table = table.to(torch.get_autocast_dtype(device))
        return looked_up(table, bias_entries(ids, grid, prefix))

    def table(self, grid: tuple[int, int]) -> Tensor:
        """The table of a grid [(2h - 1)(2w - 1) + 3, heads]: itself for its own, else bicubic, with gradient."""
        return resampled_bias(self.relative_position_bias_table, self.grid, grid)


def resampled_bias(table: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """A table of one grid for another: bicubic, as positions are, the prefix's three entries as they were.

    A difference is taken as a share of the image: what an encoder does that is shown several sizes (data.sizes), and so
    what one that starts from it at another size does, too. BEiT's and SimMIM's code keep the biases of near patches
    where they are, by a geometric series of distances.
    """
    if tuple(grid) == tuple(wanted):
        return table
    own, new = ([2 * side - 1 for side in sides] for sides in (grid, wanted))
    picture = table[:-3].T.unflatten(1, own)[None]
    picture = F.interpolate(picture, size=new, mode="bicubic", antialias=True)
    return torch.cat([picture[0].flatten(1).T, table[-3:]])


def empty_table(grid: tuple[int, int], heads: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, heads))


def looked_up(table: Tensor, entries: Tensor) -> Tensor:
    """table [entries, heads], i64 [n, queries, T] -> [n, heads, queries, T]."""
    # contiguous: CUDA's fused attention wants keys side by side
    return table[entries].permute(0, 3, 1, 2).contiguous()


def bias_entries(ids: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """i64 [n, T, T]: the entry of each pair, query minus key in raster order; the last 3 a prefix's."""
    rows, columns = (2 * side - 1 for side in grid)
    down, over = _differences(ids, grid[1])
    last = rows * columns
    between = (down + grid[0] - 1) * columns + over + grid[1] - 1
    keys = F.pad(between, (prefix, 0), value=last + 1)  # patch to prefix
    whole = F.pad(keys, (0, 0, prefix, 0), value=last)  # prefix to patch
    whole[:, :prefix, :prefix] = last + 2
    return whole
