"""Fixed positions, positions of another grid, and initial weights of MAE and BEiT."""

import torch
from timm.layers import resample_abs_pos_embed, trunc_normal_
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pipeline.errors import InputError


def sincos_2d(width: int, grid: tuple[int, int]) -> Tensor:
    """f64 [L, width], raster order: the first half encodes x, the second y, each as sines then cosines of
    position / 10000^(i / (width / 4)) (MAE's table; section A.1).

    Raises InputError if 4 does not divide `width`.
    """
    if width % 4:
        raise InputError(f"sine-cosine positions need a width that 4 divides, got {width}; choose position learned")
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (x, y)]
    return torch.cat([half for angle in angles for half in (angle.sin(), angle.cos())], 1)


def resampled(positions: Tensor, grid: tuple[int, int], wanted: tuple[int, int], before: int = 0) -> Tensor:
    """Positions [1, before + L, C] of one grid for another: themselves if it is the same, else bicubic, with gradient.

    An image shown smaller is the same image in fewer patches: its positions are spread over it, not cut off. Learned
    and sine-cosine tables are resampled alike, as in MAE's fine-tuning and DailyMAE's code (Wu et al. 2024).
    """
    if tuple(grid) == tuple(wanted):
        return positions
    return resample_abs_pos_embed(positions, list(wanted), list(grid), num_prefix_tokens=before)


def prefix_positions(encoder: nn.Module) -> int:
    """How many of an encoder's positions come before the patches': newer ViTs add none to their prefix tokens."""
    return 0 if getattr(encoder, "no_embed_class", False) else encoder.num_prefix_tokens


def mae_init(module: nn.Module) -> None:
    """MAE's initial weights for one module, for `model.apply`: Xavier-uniform linears, zero biases.

    A patch embedding (a convolution) is initialised as the linear layer that it is.
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def beit_init(vit: VisionTransformer) -> None:
    """BEiT's initial weights, which SimMIM's ViT has, too; in place.

    Truncated normal of 0.02 for linears, patch embedding and tokens, zero biases; what writes into the residual stream
    of block i (from 1) is divided by sqrt(2 i), so that its variance grows no faster than the logarithm of depth.
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
