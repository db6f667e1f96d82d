"""Relative positions: a bias that attention adds to q · k for each pair of tokens, in place of absolute positions.

Three kinds share one interface. Once a step and group, `pairs` finds the table's entry of each pair of tokens; in each
block, `attention_bias` turns it (and the queries) into what is added to the scaled scores. In a state dict:

    blocks.<i>.attn.rpe_k.lookup_table_weight   [1, head_dim, 50]   irpe: a table a block (iRPE's and LoMaR's name)
    rel_pos_bias.relative_position_bias_table   [(2h - 1)(2w - 1) + 3, heads]   bias: one table (SimMIM's, BEiT's name)
    blocks.<i>.attn.relative_position_bias_table   block_bias: such a table a block; SimMIM and BEiT fine-tune with it

and everything else is timm's; `pos_embed` is absent. All tables start at zero and decay with the weights, as in the
authors' code (SimMIM, BEiT and LoMaR decay all but vectors, tokens and pos_embed; timm's Beit not its table, either).
"""

from collections.abc import Iterable
from typing import Literal, final, get_args

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.axes import has_axes
from pipeline.errors import InputError

Kind = Literal["irpe", "bias", "block_bias"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHARED_TABLE, BLOCK_TABLE = "rel_pos_bias.relative_position_bias_table", "attn.relative_position_bias_table"
BUCKETS, PREFIX_BUCKET = 50, 49


def add_relative(vit: VisionTransformer, kind: Kind) -> None:
    """Give a packed encoder its tables, in place: add_relative(vit, "irpe").

    Raises InputError for varlen attention, which takes no bias.
    """
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
            block.attn.relative_position_bias_table = zero_table(grid, heads)


def pairs(
    vit: VisionTransformer,
    grid: tuple[int, int],
    ids: Tensor | None,
    device: torch.device,
    prefix: int | None = None,
) -> Tensor | None:
    """Find the entry of each pair of a group's tokens; None for an encoder without relative positions.

    bias = attention_bias(vit.blocks[0].attn, q, pairs(vit, (14, 14), None, q.device))

    grid    patches down and across of the group's images
    ids     i64 [n, K]  the patches of each image, in the order of their tokens; None means all, in raster order
    prefix  tokens before the patches; the encoder's when None

    irpe, block_bias: i64 [n, T, T], query first; bias: float [n, heads, T, T]; n is 1 where all images have the
    same patches.

    Raises InputError for block_bias and images of another size than the encoder's, and for decomposed positions.
    """
    if not vit.blocks[0].relative:
        return None
    if has_axes(vit):
        raise InputError(
            "decomposed positions are computed of windows, got whole images; use models.dense.windows.window_features"
        )
    prefix = vit.num_prefix_tokens if prefix is None else prefix
    if ids is None:
        ids = torch.arange(grid[0] * grid[1], device=device)[None]
    if (shared := getattr(vit, "rel_pos_bias", None)) is not None:
        return shared(ids, grid, prefix)
    if hasattr(vit.blocks[0].attn, "rpe_k"):
        return irpe_buckets(ids, grid[1], prefix)
    if tuple(grid) != (known := tuple(vit.patch_embed.grid_size)):
        raise InputError(f"position block_bias is of {known} patches, got images of {tuple(grid)}; use one data.size")
    return bias_entries(ids, grid, prefix)


def attention_bias(attn: nn.Module, q: Tensor, pairs: Tensor) -> Tensor:
    """The bias [n or 1, heads, queries, T] that is added to the scaled scores of q [n, heads, queries, head_dim], the
    queries of the first of T tokens or of all, with `pairs` of all T."""
    if (contextual := getattr(attn, "rpe_k", None)) is not None:
        return contextual(q, pairs)
    if (table := getattr(attn, "relative_position_bias_table", None)) is not None:
        return lookup(table.to(q.dtype), pairs[:, : q.shape[2]])
    return pairs[:, :, : q.shape[2]]


def kind_of(names: Iterable[str]) -> str:
    """Name the kind of positions that an encoder's state dict holds, in the words of encoder.position."""
    found = set(names)
    if SHARED_TABLE in found:
        return "bias"
    if f"blocks.0.{BLOCK_TABLE}" in found:
        return "block_bias"
    if "blocks.0.attn.rpe_k.lookup_table_weight" in found:
        return "irpe"
    return "learned or sincos" if "pos_embed" in found else "none"


def bias_for_each_block(held: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Copy the shared table of an encoder's state into a table for each block, as SimMIM does for fine-tuning."""
    others = {name: tensor for name, tensor in held.items() if name != SHARED_TABLE}
    return others | {f"blocks.{number}.{BLOCK_TABLE}": held[SHARED_TABLE] for number in range(depth)}


@final
class ContextualPositions(nn.Module):
    """iRPE on keys, contextual, product method, shared over heads (Wu et al. 2021; LoMaR code).

    The bias of a pair is q · table[bucket]. As in LoMaR's release, q is not scaled by head_dim^-0.5. iRPE's DeiT scales
    it first, which makes the same functions with tables larger by head_dim^0.5: divide its tables by that to load them.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.lookup_table_weight = nn.Parameter(torch.zeros(1, head_dim, BUCKETS))

    def forward(self, q: Tensor, buckets: Tensor) -> Tensor:
        """Compute the bias: q [n, heads, queries, head_dim], buckets i64 [n or 1, T, T] -> [n, heads, queries, T]."""
        each = q @ self.lookup_table_weight
        return each.gather(-1, buckets[:, None, : q.shape[2]].expand(*q.shape[:3], -1))


def irpe_buckets(ids: Tensor, across: int, prefix: int) -> Tensor:
    """Compute i64 [n, prefix + K, prefix + K]: 7 (f(dy) + 3) + f(dx) + 3 of query minus key, 49 with a prefix token.

    f keeps the sign and puts |d| into 0, 1, {2, 3} and {4, ...}: iRPE's piecewise index (eq. 18) at alpha 1.9, beta
    3.8, gamma 15.2. No bucket depends on the grid: windows and images of any size share the table.
    """
    down, over = (_piecewise(difference) + 3 for difference in _differences(ids, across))
    return F.pad(7 * down + over, (prefix, 0, prefix, 0), value=PREFIX_BUCKET)


def _piecewise(difference: Tensor) -> Tensor:
    far = difference.abs()
    return difference.sign() * ((far >= 1).long() + (far >= 2).long() + (far >= 4).long())


def _differences(ids: Tensor, across: int) -> tuple[Tensor, Tensor]:
    """Differences down and across, query minus key, i64 [n, K, K] each."""
    y, x = ids // across, ids % across
    return y[:, :, None] - y[:, None, :], x[:, :, None] - x[:, None, :]


@final
class PositionBias(nn.Module):
    """A number a head for each difference of patches, shared by all blocks (BEiT; SimMIM pre-trains its ViT with it).

    Three further entries stand for prefix to patch, patch to prefix and prefix to prefix. For images of another size
    than `grid` the table is resampled: the same image in fewer patches has the same differences in larger steps.
    """

    def __init__(self, grid: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.grid = grid
        self.relative_position_bias_table = zero_table(grid, heads)

    def forward(self, ids: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
        """Look up patches i64 [n, K] of a grid -> [n, heads, prefix + K, prefix + K], in autocast's type if on."""
        table, device = self.table(grid), ids.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            table = table.to(torch.get_autocast_dtype(device))
        return lookup(table, bias_entries(ids, grid, prefix))

    def table(self, grid: tuple[int, int]) -> Tensor:
        """The table for a grid, [(2h - 1)(2w - 1) + 3, heads]; resampled with gradient where it is another grid."""
        return resampled_bias(self.relative_position_bias_table, self.grid, grid)


def resampled_bias(table: Tensor, grid: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resample a table of one grid to another, bicubically as positions are; the prefix's three entries stay.

    A difference is taken as a share of the image, in training at several sizes (data.sizes) and when a run starts from
    an encoder of another size. BEiT's and SimMIM's code keep the biases of near patches where they are, by a geometric
    series of distances.
    """
    if tuple(grid) == tuple(new):
        return table
    before, after = ([2 * side - 1 for side in sides] for sides in (grid, new))
    picture = table[:-3].T.unflatten(1, before)[None]
    picture = F.interpolate(picture, size=after, mode="bicubic", antialias=True)
    return torch.cat([picture[0].flatten(1).T, table[-3:]])


def zero_table(grid: tuple[int, int], heads: int) -> nn.Parameter:
    """A trainable table of zeros for a grid, [(2h - 1)(2w - 1) + 3, heads]."""
    return nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, heads))


def lookup(table: Tensor, entries: Tensor) -> Tensor:
    """Look up a table [entries, heads] at i64 [n, queries, T] -> [n, heads, queries, T]."""
    # contiguous, because CUDA's fused attention reads keys that are adjacent in memory
    return F.embedding(entries, table).permute(0, 3, 1, 2).contiguous()


def bias_entries(ids: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """The table's entry of each pair, i64 [n, T, T]: query minus key in raster order; a prefix has the last 3."""
    rows, columns = (2 * side - 1 for side in grid)
    down, over = _differences(ids, grid[1])
    last = rows * columns
    between = (down + grid[0] - 1) * columns + over + grid[1] - 1
    keys = F.pad(between, (prefix, 0), value=last + 1)  # patch to prefix
    entries = F.pad(keys, (0, 0, prefix, 0), value=last)  # prefix to patch
    entries[:, :prefix, :prefix] = last + 2
    return entries
