"""Couplings of the streams: a map's cells to tokens (FCU-down), tokens to a map (FCU-up), as in Conformer."""

from functools import partial
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder.patches import gather_patches, grid_of
from models.semiformer.blocks import EPSILON

layer_norm = partial(nn.LayerNorm, eps=1e-6)


@final
class PatchTokens(nn.Module):
    """The patch embedding: a linear layer on the 4 x 4 cells of each patch of the stem's map.

    patch_size, grid_size  in pixels of the image, and in patches of it, as timm's PatchEmbed has them
    """

    CELLS = 4

    def __init__(self, channels: int, width: int, patch: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.patch_size, self.grid_size = (patch, patch), grid
        self.proj = nn.Conv2d(channels, width, self.CELLS, self.CELLS)

    def forward(self, stem: Tensor, visible: Tensor | None = None) -> Tensor:
        """Embed float [N, C, h, w] -> float [N, L, width]; given visible i64 [N, K], float [N, K, width] of these."""
        cells = gather_patches(stem, None, visible, self.CELLS)
        return F.linear(cells, self.proj.weight.permute(0, 2, 3, 1).flatten(1), self.proj.bias)


@final
class Down(nn.Module):
    """FCU-down: the convolutional stream's map as an addition to the transformer's tokens.

    pool  cells of the map that a token covers, along each side
    """

    def __init__(self, channels: int, width: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.project = nn.Conv2d(channels, width, 1)
        self.norm = layer_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Project float [N, channels, h, w] -> float [N, L, width]."""
        # the papers pool after the projection, which is equal, as both are linear, and takes pool² times the FLOPs
        x = self.project(F.avg_pool2d(x, self.pool) if self.pool > 1 else x)
        return F.gelu(self.norm(x.flatten(2).transpose(1, 2)))


@final
class Up(nn.Module):
    """FCU-up: the transformer's tokens as an addition to the convolutional stream's map.

    scale  cells of the map that a token covers, along each side
    """

    def __init__(self, width: int, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.project = nn.Conv2d(width, channels, 1)
        self.norm = nn.BatchNorm2d(channels, EPSILON)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Project float [N, L, width] -> float [N, channels, h, w], by nearest neighbours."""
        x = tokens.transpose(1, 2).unflatten(2, grid)
        x = self.norm(self.project(x)).relu()
        return F.interpolate(x, scale_factor=self.scale, mode="nearest") if self.scale > 1 else x


def blanked(pixels: Tensor, visible: Tensor, patch: int) -> Tensor:
    """Set pixels float [N, C, H, W] outside the patches visible i64 [N, K] to 0, the mean colour.

    Convolutions read across the borders of patches, so hidden pixels have to go before the first one.
    """
    down, across = grid_of(pixels, patch)
    kept = torch.zeros(len(pixels), down * across, dtype=torch.bool, device=pixels.device).scatter(1, visible, True)
    cells = pixels.unflatten(3, (across, patch)).unflatten(2, (down, patch))
    kept = kept.view(-1, 1, down, 1, across, 1)
    return torch.where(kept, cells, 0.0).flatten(4, 5).flatten(2, 3)
