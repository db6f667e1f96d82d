"""PackedBlock: timm's ViT block on a packed token matrix.

One matrix (rows, C) holds the tokens of every image group. LayerNorm, qkv, projection and MLP run once over all of it;
attention and drop-path follow the `Layout`. Parameters keep timm's names and shapes, so checkpoints stay timm's; those
that relative positions add are named in `models.encoder.relative`. The parts of timm's Block and Attention are read by
their names (norm1, attn.qkv, ls1, ...), and `as_packed` refuses other classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache

import torch
import torch.nn.functional as F
from timm.layers import Attention, DropPath, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from models.encoder.axes import Extent, axes_attention
from models.encoder.layout import Layout, kept_rows, paired_runs
from models.encoder.relative import attention_bias
from pipeline.errors import InputError

ATTENTIONS = ("sdpa", "varlen")
Factors = Tensor | None
Pair = Tensor | Extent | None
Pairs = tuple[Pair, ...] | None  # one a group: a tensor of models.encoder.relative.pairs, or of decomposed positions
Turns = Tensor | None  # the sines and cosines of each row, which models.encoder.rotary.rotations makes


class PackedBlock(Block):
    """timm's Block with a second, packed path.

    block(x, layout=Layout(((2, 5), (3, 2))))   # x [16, C] -> [16, C]

    attention  "sdpa": one call a run of equal lengths, anywhere; "varlen": one call in all, CUDA in half precision;
               float32, in which runs are measured, is computed as by sdpa
    relative   whether attention has relative positions (models.encoder.relative.add_relative, axes.add_axes)
    compiler   back-end of torch.compile for the packed path (models.distributed.compile); None runs it eagerly
    """

    attention: str = "sdpa"
    relative: bool = False
    compiler: str | Callable | None = None

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        layout: Layout | None = None,
        keep: tuple[int, ...] | None = None,
        pairs: Pairs = None,
        turns: Turns = None,
        drops: tuple[Factors, ...] | None = None,
    ) -> Tensor:
        """Run timm's forward on [N, tokens, C] without `layout`; with it, the packed one: [rows, C] -> [rows, C].

        keep   return the first keep[g] tokens of each sample of group g alone: the rows that a loss reads. Keys and
               values still come from every token, so these rows are exact. For the last block.
        pairs  one entry a group of `models.encoder.relative.pairs`, where positions are relative, or its `Extent`,
               where they are decomposed (models.encoder.axes)
        turns  sines and cosines of each row (models.encoder.rotary.rotations), where positions are rotary
        drops  the two factors of `drop_factors`; None draws them here

        Raises InputError for relative positions without `pairs`.
        """
        if self.relative and pairs is None:
            raise InputError(
                "an encoder with relative positions runs on groups only; use models.encoder.vit.encode or eval_logits"
            )
        if layout is None:
            return super().forward(x, attn_mask=attn_mask, is_causal=is_causal)
        run = _rows if self.compiler is None else compiled(_rows, self.compiler)
        if drops is None:
            drops = tuple(drop_factors((self.drop_path1, self.drop_path2), x, layout))
        return run(self, x, layout, keep, pairs, turns, *drops)

    def heads(self, x: Tensor, first: Tensor | None, turns: tuple[Tensor, Tensor] | None) -> tuple[Tensor, ...]:
        """Compute queries, keys and values, [rows, heads, head_dim] each, queries and keys normed: x [rows, C].

        first  the rows whose queries are computed; None means all of x. The query third of qkv runs on them, the key
               and value thirds on all rows
        turns  of queries and of keys, in a rotary encoder (models.encoder.rotary)
        """
        attn = self.attn
        if first is None:
            q, k, v = attn.qkv(x).unflatten(1, (3, attn.num_heads, attn.head_dim)).unbind(1)
        else:
            weight, bias, dim = attn.qkv.weight, attn.qkv.bias, attn.attn_dim
            q = F.linear(first, weight[:dim], None if bias is None else bias[:dim])
            kv = F.linear(x, weight[dim:], None if bias is None else bias[dim:])
            k, v = kv.unflatten(1, (2, attn.num_heads, attn.head_dim)).unbind(1)
            q = q.unflatten(1, (attn.num_heads, attn.head_dim))
        return attn.q_norm(q), attn.k_norm(k), v


def _rows(
    block: PackedBlock,
    x: Tensor,
    layout: Layout,
    keep: tuple[int, ...] | None,
    pairs: Pairs,
    turns: Turns,
    drop1: Factors,
    drop2: Factors,
) -> Tensor:
    layout, kept = kept_rows(layout, keep)
    normed = block.norm1(x)
    if kept.shapes == layout.shapes:
        first, turned = normed, None if turns is None else (turns, turns)
        q, k, v = block.heads(normed, None, turned)
    else:
        first = first_tokens(normed, kept, layout)
        turned = None if turns is None else (first_tokens(turns, kept, layout), turns)
        q, k, v = block.heads(normed, first, turned)
        x = first_tokens(x, kept, layout)
    y = _finish(block.attn, first, _attend(block.attn, q, k, v, kept, layout, block.attention, pairs))
    x = x + _dropped(block.ls1(y), kept, drop1)
    return x + _dropped(block.ls2(block.mlp(block.norm2(x))), kept, drop2)


def _dropped(y: Tensor, layout: Layout, factors: Factors) -> Tensor:
    return y if factors is None else y * layout.per_token(factors)


def as_packed(vit: VisionTransformer, attention: str = "sdpa") -> VisionTransformer:
    """Give the blocks of a plain timm ViT, pretrained or not, their packed path; in place, the weights untouched.

    vit = as_packed(timm.create_model("vit_small_patch16_224"))

    Raises InputError for what packing does not reproduce exactly: other block, attention or patch-embedding classes,
    subclasses of VisionTransformer, patch dropout.
    """
    check_packable(vit, attention, _plain_parts(vit), "a plain timm ViT")
    for block in vit.blocks:
        block.__class__ = PackedBlock
        if attention == "varlen" and block.relative:
            raise InputError("attention varlen takes no relative positions; choose attention sdpa")
        block.attention = attention
    return vit


def check_packable(
    vit: VisionTransformer, attention: str, parts: Iterable[tuple[nn.Module | None, tuple[type, ...]]], kind: str
) -> None:
    """Raise InputError if a model cannot be packed exactly: its parts, each with the classes that it may be of, its
    patches, or an unknown kind of attention.

    kind  of model that is expected, as the message has it
    """
    if attention not in ATTENTIONS:
        raise InputError(f"attention is one of {', '.join(ATTENTIONS)}, got {attention!r}")
    for module, classes in parts:
        if type(module) not in classes:
            raise InputError(
                f"{kind} has {classes[0].__name__} here, got {type(module).__name__}; choose another model"
            )
    height, width = vit.patch_embed.patch_size
    if height != width or vit.patch_embed.proj.in_channels != 3:
        raise InputError(f"square patches of 3 channels are expected, got {tuple(vit.patch_embed.proj.weight.shape)}")


def _plain_parts(vit: VisionTransformer) -> Iterator[tuple[nn.Module, tuple[type, ...]]]:
    yield vit, (VisionTransformer,)  # first, because the attributes below are this class's
    yield vit.patch_embed, (PatchEmbed,)
    yield vit.patch_drop, (nn.Identity,)
    for block in vit.blocks:
        yield block, (Block, PackedBlock)
        yield block.attn, (Attention,)


@cache
def compiled(function: Callable, compiler: str | Callable) -> Callable:
    """The compiled function, once for all blocks. A bound method of a block would not do: a copy of the block (a
    teacher's) would run it with the weights of the original."""
    return torch.compile(function, backend=compiler, fullgraph=True)


def first_tokens(x: Tensor, kept: Layout, layout: Layout) -> Tensor:
    """Take the first tokens of each sample: [layout.rows, C] -> [kept.rows, C]."""
    groups = zip(layout.split(x), kept.shapes, strict=True)
    return torch.cat([group[:, :tokens].flatten(0, 1) for group, (_, tokens) in groups])


def drop_factors(drop_paths: Sequence[nn.Module], x: Tensor, layout: Layout) -> list[Factors]:
    """Draw the factors of stochastic depth of many residual branches at once: [samples, 1] each, by timm's law.

    A sample's factor is 0 where its branch is dropped, else 1 over the keep-probability; 1 in groups that have no
    drop-path. None stands for a branch, or a layout, in which nothing is dropped. Two kernels draw all, where a draw a
    branch and group is over a hundred launches a step; and it happens outside of compiled functions, whose graphs then
    hold no rate.
    """
    active = [part for part in drop_paths if isinstance(part, DropPath) and part.drop_prob > 0.0 and part.training]
    drops = layout.drop_path or (True,) * len(layout.shapes)
    if not active or layout.samples == 0 or not any(drops):
        return [None] * len(drop_paths)
    keeps = tuple(1.0 - part.drop_prob for part in active)
    scales = tuple(keep if part.scale_by_keep else 1.0 for part, keep in zip(active, keeps, strict=True))
    # every row begins at a multiple of 16 bytes, as inductor copies an input that does not
    drawn = torch.rand(len(active), -(-layout.samples // 8) * 8, device=x.device) < column(keeps, x.device)
    factors = (drawn / column(scales, x.device)).to(x.dtype)
    start = 0
    for (samples, _), drop in zip(layout.shapes, drops, strict=True):
        if not drop:
            factors[:, start : start + samples] = 1.0
        start += samples
    rows = iter(factors[:, : layout.samples, None].unbind(0))
    return [next(rows) if part in active else None for part in drop_paths]


@lru_cache(maxsize=64)
def column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values as f64 [len(values), 1], copied to the device once."""
    with torch.inference_mode(False):  # a tensor born in inference mode could not be used by a later step
        return torch.tensor(values, dtype=torch.float64)[:, None].to(device)


def _attend(
    attn: Attention, q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, attention: str, pairs: Pairs
) -> Tensor:
    """[rows, heads, head_dim] each, normed -> [query rows, heads · head_dim]; no sample sees another."""
    dropout = attn.attn_drop.p if attn.training else 0.0
    if attention == "varlen" and v.dtype != torch.float32:  # a run is measured in f32, which varlen_attn lacks
        return _attend_varlen(q, k, v, queries, keys, dropout).flatten(1)
    outs, query_start, key_start = [], 0, 0
    for (samples, first, tokens), pair in _runs(queries, keys, pairs):
        query_end, key_end = query_start + samples * first, key_start + samples * tokens
        q_run = q[query_start:query_end].unflatten(0, (samples, first)).transpose(1, 2)
        k_run, v_run = (z[key_start:key_end].unflatten(0, (samples, tokens)).transpose(1, 2) for z in (k, v))
        if isinstance(pair, Extent):
            out = axes_attention(attn, q_run, k_run, v_run, pair, dropout)
        else:
            bias = None if pair is None else attention_bias(attn, q_run, pair)
            out = F.scaled_dot_product_attention(q_run, k_run, v_run, attn_mask=bias, dropout_p=dropout)
        outs.append(out.transpose(1, 2).flatten(0, 1).flatten(1))
        query_start, key_start = query_end, key_end
    if len(outs) == 1:
        return outs[0]
    return torch.cat(outs) if outs else q.flatten(1)


def _runs(queries: Layout, keys: Layout, pairs: Pairs) -> list[tuple[tuple[int, int, int], Pair]]:
    if pairs is None:
        return [(run, None) for run in paired_runs(queries, keys)]
    # each group is a run of its own, because its pairs are
    shapes = zip(queries.shapes, keys.shapes, pairs, strict=True)
    return [((samples, first, tokens), pair) for (samples, first), (_, tokens), pair in shapes if samples]


def _attend_varlen(q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, dropout: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # lazily, as it is for CUDA

    if dropout or q.device.type not in ("cuda", "meta") or v.dtype not in (torch.bfloat16, torch.float16):
        raise InputError(
            f"varlen attention runs on CUDA in half precision without attention dropout, got {q.device.type}, "
            f"{v.dtype}, dropout {dropout}; choose attention sdpa"
        )
    q, k = q.to(v.dtype), k.to(v.dtype)  # a q_norm under autocast returns f32
    starts = queries.cu_seqlens(q.device), keys.cu_seqlens(k.device)
    return varlen_attn(q, k, v, *starts, queries.longest, keys.longest)


def _finish(attn: Attention, x: Tensor, out: Tensor) -> Tensor:
    out = attn.norm(out)
    if getattr(attn, "gate", None) is not None:
        out = out * attn.gate(x).sigmoid()
    return attn.proj_drop(attn.proj(out))
