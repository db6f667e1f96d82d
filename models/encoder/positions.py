"""Absolute positions: the sine-cosine table, resampling to another grid; and the initial weights of MAE and BEiT."""

import torch
from timm.layers import resample_abs_pos_embed, trunc_normal_
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pipeline.errors import InputError


def sincos_2d(width: int, grid: tuple[int, int]) -> Tensor:
    """Compute MAE's table f64 [L, width], raster order (section A.1).

    The first half encodes x, the second y, each as sines then cosines of position / 10000^(i / (width / 4)).

    Raises InputError if 4 does not divide `width`.
    """
    if width % 4:
        raise InputError(f"sine-cosine positions need a width that 4 divides, got {width}; choose position learned")
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (x, y)]
    return torch.cat([half for angle in angles for half in (angle.sin(), angle.cos())], 1)


def resampled(positions: Tensor, grid: tuple[int, int], new: tuple[int, int], before: int = 0) -> Tensor:
    """Resample positions [1, before + L, C] of one grid to another, bicubically and with gradient; the first `before`
    stay, and so do all where the grids are equal.

    The same image in fewer patches spans the whole table: its positions are spread over it, not cut off. Learned and
    sine-cosine tables are resampled alike, as in MAE's fine-tuning and DailyMAE's code (Wu et al. 2024).
    """
    if tuple(grid) == tuple(new):
        return positions
    return resample_abs_pos_embed(positions, list(new), list(grid), num_prefix_tokens=before)


def prefix_positions(encoder: nn.Module) -> int:
    """Count an encoder's positions before those of the patches: with no_embed_class prefix tokens have none."""
    return 0 if getattr(encoder, "no_embed_class", False) else encoder.num_prefix_tokens


def mae_init(module: nn.Module) -> None:
    """Give one module MAE's initial weights, as `model.apply(mae_init)`: Xavier-uniform linears, zero biases.

    A patch embedding, which is a convolution, is initialised as the equivalent linear layer.
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def beit_init(vit: VisionTransformer) -> None:
    """Give a ViT, in place, BEiT's initial weights, which SimMIM's ViT has, too.

    Truncated normal of 0.02 for linears, patch embedding and tokens, zero biases. The two layers of block i (from 1)
    that are added to the residual stream are divided by sqrt(2 i): its variance grows with the logarithm of depth.
    """
    for module in vit.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for token in (vit.cls_token, vit.reg_token):
        if token is not None:
            trunc_normal_(token, std=0.02)
    for number, block in enumerate(vit.blocks, 1):
        for last in (block.attn.proj, block.mlp.fc2):
            last.weight.div_((2 * number) ** 0.5)
