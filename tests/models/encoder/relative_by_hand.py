"""Encoders with relative positions, and the same written out: loops over images, heads and pairs."""

import math

import timm
import torch

from models.encoder.packed import as_packed
from models.encoder.relative import add_relative

DOUBLE = torch.float64
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5, "pos_embed": "none"}
KINDS = ["irpe", "bias", "block_bias"]
BY_HAND = {0: 0, 1: 1, 2: 2, 3: 2}  # further: 3


def build(kind, pixels=32, **options):
    """A packed timm ViT with tables of `kind`, every weight away from its start."""
    torch.manual_seed(0)
    vit = as_packed(timm.create_model("vit_tiny_patch16_224", img_size=pixels, **SMALL | options))
    add_relative(vit, kind)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for name, parameter in vit.named_parameters():
            if "relative" in name or "rpe_k" in name:
                parameter.normal_()
    return vit.to(DOUBLE)


def images(samples=3, pixels=32):
    return torch.randn(samples, 3, pixels, pixels, dtype=DOUBLE)


def shuffled(samples, patches, kept):
    return torch.rand(samples, patches).argsort(1)[:, :kept]


def piecewise(difference):
    return int(math.copysign(BY_HAND.get(abs(difference), 3), difference))


def entry_by_hand(kind, grid, query, key):
    """Which entry a pair of patches has; None stands for a prefix token."""
    if kind == "irpe":
        if query is None or key is None:
            return 49
        down, over = (a - b for a, b in zip(divmod(query, grid[1]), divmod(key, grid[1]), strict=True))
        return (piecewise(down) + 3) * 7 + piecewise(over) + 3
    last = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 2
    if query is None or key is None:
        return last if query is None and key is None else last - 1 if key is None else last - 2
    down, over = (a - b for a, b in zip(divmod(query, grid[1]), divmod(key, grid[1]), strict=True))
    return (down + grid[0] - 1) * (2 * grid[1] - 1) + over + grid[1] - 1


def entries_by_hand(kind, grid, ids, prefix):
    tokens = [None] * prefix + list(ids)
    return torch.tensor([[entry_by_hand(kind, grid, query, key) for key in tokens] for query in tokens])


def plain(vit, kind, images, ids, covered=None):
    """[n, prefix + K, C], final-normed, image after image and head after head, with the bias written out."""
    grid = tuple(side // vit.patch_embed.patch_size[0] for side in images.shape[-2:])
    outs = []
    for number, kept in enumerate(ids.tolist()):
        x = vit.patch_embed.proj(images[number][None]).flatten(2)[0].T[kept]
        if covered is not None:
            x = torch.where(covered[number][:, None], 0.5, x)
        prefix = [token[0] for token in (vit.cls_token, vit.reg_token) if token is not None]
        x = torch.cat([*prefix, x])
        entries = entries_by_hand(kind, grid, kept, vit.num_prefix_tokens)
        for block in vit.blocks:
            x = x + block.ls1(attention_by_hand(vit, kind, block.attn, block.norm1(x), entries))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        outs.append(vit.norm(x))
    return torch.stack(outs)


def attention_by_hand(vit, kind, attn, x, entries):
    outs = []
    for q, k, v in attn.qkv(x).unflatten(1, (3, attn.num_heads, -1)).permute(2, 1, 0, 3):
        head = len(outs)
        q, k = attn.q_norm(q), attn.k_norm(k)
        scores = q @ k.T / attn.head_dim**0.5
        if kind == "irpe":
            scores = scores + (q[:, None] * attn.rpe_k.lookup_table_weight[0].T[entries]).sum(-1)
        else:
            held = vit.rel_pos_bias if kind == "bias" else attn
            scores = scores + held.relative_position_bias_table[:, head][entries]
        outs.append(scores.softmax(-1) @ v)
    return attn.proj(torch.cat(outs, 1))
