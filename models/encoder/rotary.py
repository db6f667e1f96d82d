"""Rotary encoders: timm's class Eva (DINOv3, EVA-02, Perception Encoder, RoPE-ViT), whose blocks take packed groups.

Queries and keys of patches are turned in each block by an angle for each pair of channels, so that q · k depends on the
difference of two positions (Su et al. 2021, "RoFormer"). timm's rope module gives the sines and cosines of a grid; a
group's tokens get those of their own patches, and the tokens before the patches are not turned.

    vit = as_packed_eva(timm.create_model("vit_small_patch16_dinov3", global_pool="token"))
    (tokens,) = encode(vit, [VisiblePatches(images, ids)])

Parameters keep the names and shapes of timm's Eva. A step of a plain ViT runs no code of this file.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import cast, final

import torch
import torch.nn.functional as F
from timm.layers import (
    AttentionRope,
    PatchEmbed,
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    RotaryEmbeddingMixed,
    RotaryEmbeddingMRope,
    apply_rot_embed_cat,
)
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.lora import LoRALinear
from models.encoder.packed import Factors, PackedBlock, Pairs, Turns, check_packable
from pipeline.errors import InputError

ROPES = RotaryEmbeddingCat, RotaryEmbeddingDinoV3, RotaryEmbeddingMixed, RotaryEmbeddingMRope
Grid = tuple[int, int]


@final
class PackedEva(Eva, VisionTransformer):
    """timm's Eva with packed blocks. It is a VisionTransformer, too, as this trainer's signatures say, but every method
    is Eva's; `as_packed_eva` makes one."""


@final
class PackedEvaBlock(PackedBlock):
    """timm's EvaBlock with the packed path of PackedBlock, which reads heads and LayerScale from Eva's parts."""

    def forward(  # ty: ignore[incompatible-method-override]
        self,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        layout=None,
        keep: tuple[int, ...] | None = None,
        pairs: Pairs = None,
        turns: Turns = None,
        drops: tuple[Factors, ...] | None = None,
    ) -> Tensor:
        """Run timm's forward on [N, tokens, C] without `layout`; with it PackedBlock's, [rows, C] -> [rows, C]."""
        if layout is None:
            return EvaBlock.forward(self, x, rope=rope, attn_mask=attn_mask, is_causal=is_causal)
        return super().forward(x, layout=layout, keep=keep, pairs=pairs, turns=turns, drops=drops)

    def heads(self, x: Tensor, first: Tensor | None, turns: tuple[Tensor, Tensor] | None) -> tuple[Tensor, ...]:
        """Compute queries of the rows `first`, or of all, keys and values of all rows, normed and turned."""
        attn = self.attn
        q, k, v = (part.unflatten(1, (-1, attn.head_dim)) for part in _projected(attn, x, first))
        q, k = attn.q_norm(q), attn.k_norm(k)
        if turns is not None:
            half = attn.rotate_half
            q, k = (apply_rot_embed_cat(part, turn, half).type_as(v) for part, turn in zip((q, k), turns, strict=True))
        if (groups := getattr(attn, "num_kv_groups", 1)) > 1:  # some queries share their keys and values
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return q, k, v

    def ls1(self, y: Tensor) -> Tensor:
        """Scale the attention branch by LayerScale's factors, where the block has them."""
        return y if self.gamma_1 is None else self.gamma_1 * y

    def ls2(self, y: Tensor) -> Tensor:
        """Scale the MLP branch by LayerScale's factors, where the block has them."""
        return y if self.gamma_2 is None else self.gamma_2 * y


def _projected(attn: nn.Module, x: Tensor, first: Tensor | None) -> tuple[Tensor, ...]:
    """Queries of the rows `first` (None: of all), keys and values of all rows of x, each [rows, heads · head_dim].

    Eva's fused layer has its biases apart, of queries and values alone; AttentionRope's is an ordinary one.
    """
    if attn.qkv is None:
        return attn.q_proj(x if first is None else first), attn.k_proj(x), attn.v_proj(x)
    bias = attn.qkv.bias
    if getattr(attn, "q_bias", None) is not None:
        bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    if first is None:
        if isinstance(attn.qkv, LoRALinear):  # its own forward leaves out the gradient of the frozen matrix
            y = attn.qkv(x)
            return (y if attn.qkv.bias is not None or bias is None else y + bias).chunk(3, 1)
        return F.linear(x, attn.qkv.weight, bias).chunk(3, 1)
    weight = attn.qkv.weight
    third = len(weight) // 3
    q = F.linear(first, weight[:third], None if bias is None else bias[:third])
    k, v = F.linear(x, weight[third:], None if bias is None else bias[third:]).chunk(2, 1)
    return q, k, v


def as_packed_eva(vit: Eva, attention: str = "sdpa") -> PackedEva:
    """Give the blocks of timm's Eva, pretrained or not, their packed path; in place, the weights untouched.

    vit = as_packed_eva(timm.create_model("eva02_tiny_patch14_224", dynamic_img_size=True, global_pool="token"))

    Raises InputError for what packing does not reproduce exactly: post-norm blocks (EVA-02's enormous), patch dropout,
    and classes that are none of Eva's own.
    """
    check_packable(vit, attention, _eva_parts(vit), "an Eva of timm whose tokens can be packed")
    vit.__class__ = PackedEva
    for block in vit.blocks:
        block.__class__ = PackedEvaBlock
        block.attention = attention
    return cast(PackedEva, vit)


def _eva_parts(vit: Eva) -> Iterator[tuple[nn.Module | None, tuple[type, ...]]]:
    yield vit, (Eva, PackedEva)
    yield vit.patch_embed, (PatchEmbed,)
    yield vit.patch_drop, (type(None),)
    yield vit.rope, (*ROPES, type(None))
    for block in vit.blocks:
        yield block, (EvaBlock, PackedEvaBlock)
        yield block.attn, (EvaAttention, AttentionRope)


def rotations(vit: VisionTransformer, groups: Sequence[tuple[Grid, Tensor | None, int]]) -> Iterator[Tensor]:
    """Yield for each block the sines and cosines of every row of a packed matrix, [rows, 1 or heads, 2 · head_dim].

    groups  of each: patches down and across, the ids i64 [n, K] of its patches (None: all, in raster order), and n

    RoPE-ViT's mixed frequencies are learned, and differ by block and head; elsewhere all blocks share one tensor. With
    coordinate augmentation (timm's rope_*_coords, DINOv3's pre-training) a training step draws one transform a group,
    as timm does for a batch; in eval mode there is none.
    """
    tables = [table_of(vit.rope, grid) for grid, _, _ in groups]
    if not vit.rope_mixed:
        return repeat(_packed(vit, tables, groups))
    return (_packed(vit, [table[n].transpose(0, 1) for table in tables], groups) for n in range(len(vit.blocks)))


def _packed(vit: VisionTransformer, tables: list[Tensor], groups: Sequence[tuple[Grid, Tensor | None, int]]) -> Tensor:
    """The rows of each group's tokens, from tables [L, 2 · head_dim] or [L, heads, 2 · head_dim] of its grid."""
    prefix, parts = vit.num_prefix_tokens, []
    for table, (_, ids, samples) in zip(tables, groups, strict=True):
        table = table if table.ndim == 3 else table[:, None]
        sines = torch.zeros_like(table[:1, :, : table.shape[2] // 2])
        still = torch.cat([sines, sines + 1], 2)  # sine 0, cosine 1: turned by nothing
        whole = torch.cat([still.expand(prefix, -1, -1), table])
        if ids is None:
            parts.append(whole.expand(samples, *whole.shape).flatten(0, 1))
            continue
        rows = F.pad(ids + prefix, (prefix, 0))
        rows[:, :prefix] = torch.arange(prefix, device=ids.device)
        # embedding, as the gradient of whole[rows] is summed by several threads in whatever order they come
        parts.append(F.embedding(rows.flatten(), whole.flatten(1)).unflatten(1, whole.shape[1:]))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def table_of(rope: nn.Module, grid: Grid) -> Tensor:
    """Sines and cosines of each patch of a grid, as timm's forward has them: [L, 2 · head_dim]; of learned frequencies
    [blocks, heads, L, 2 · head_dim], with gradient.

    Fixed ones are computed once for each grid, as timm computes DINOv3's coordinates on the CPU.

    Raises InputError for another grid than that of a rope module that was built for one.
    """
    if isinstance(rope, RotaryEmbeddingMixed) or (rope.training and rope.aug_active):
        return _made(rope, grid)
    like = next(rope.buffers())
    key = (*grid, like.device, like.dtype)
    tables = rope.__dict__.setdefault("tables", {})
    if key not in tables:
        with torch.inference_mode(False), torch.no_grad():  # usable by a later step
            tables[key] = _made(rope, grid)
    return tables[key]


def _made(rope: nn.Module, grid: Grid) -> Tensor:
    known = getattr(rope, "feat_shape", None)
    if known is None:
        return rope.get_embed(shape=list(grid))
    if isinstance(rope, RotaryEmbeddingMixed | RotaryEmbeddingDinoV3):
        return rope.get_embed() if tuple(known) == tuple(grid) else rope.get_embed(shape=list(grid))
    if tuple(known) != tuple(grid):
        raise InputError(
            f"this rotary encoder was built for {tuple(known)} patches, got images of {tuple(grid)}; build it with "
            "dynamic_img_size"
        )
    return rope.get_embed()
