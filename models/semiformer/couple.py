"""Where the streams meet: a map's cells as tokens (FCU-down), tokens as a map (FCU-up), as in Conformer."""

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
    """Tokens of the stem's map: a linear layer on the 4 x 4 cells of each patch.

    patch_size, grid_size  in pixels of the image, and in patches of it, as timm's PatchEmbed has them
    """

    CELLS = 4

    def __init__(self, channels: int, width: int, patch: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.patch_size, self.grid_size = (patch, patch), grid
        self.proj = nn.Conv2d(channels, width, self.CELLS, self.CELLS)

    def forward(self, stem: Tensor, visible: Tensor | None = None) -> Tensor:
        """float [N, C, h, w] -> float [N, L, width]; of the patches visible i64 [N, K] alone, float [N, K, width]."""
        cells = gather_patches(stem, None, visible, self.CELLS)
        return F.linear(cells, self.proj.weight.permute(0, 2, 3, 1).flatten(1), self.proj.bias)


@final
class Down(nn.Module):
    """FCU-down: what the convolutional stream tells the transformer's patches.

    pool  cells of the map that a token covers, along each side
    """

    def __init__(self, channels: int, width: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.project = nn.Conv2d(channels, width, 1)
        self.norm = layer_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """float [N, channels, h, w] -> float [N, L, width]."""
        # the papers pool behind the projection: the same, as both are linear, for pool² times the work
        x = self.project(F.avg_pool2d(x, self.pool) if self.pool > 1 else x)
        return F.gelu(self.norm(x.flatten(2).transpose(1, 2)))


@final
class Up(nn.Module):
    """FCU-up: what the transformer's patches tell the convolutional stream.

    scale  cells of the map that a token covers, along each side
    """

    def __init__(self, width: int, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.project = nn.Conv2d(width, channels, 1)
        self.norm = nn.BatchNorm2d(channels, EPSILON)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """float [N, L, width] -> float [N, channels, h, w], nearest neighbours."""
        x = tokens.transpose(1, 2).unflatten(2, grid)
        x = self.norm(self.project(x)).relu()
        return F.interpolate(x, scale_factor=self.scale, mode="nearest") if self.scale > 1 else x


def blanked(pixels: Tensor, visible: Tensor, patch: int) -> Tensor:
    """Pixels float [N, C, H, W], 0 (the mean colour) outside the patches visible i64 [N, K]; whatever was there.

    Convolutions look across the borders of patches: only pixels that are gone before the first one stay unseen.
    """
    down, across = grid_of(pixels, patch)
    shown = torch.zeros(len(pixels), down * across, dtype=torch.bool, device=pixels.device).scatter(1, visible, True)
    cells = pixels.unflatten(3, (across, patch)).unflatten(2, (down, patch))
    shown = shown.view(-1, 1, down, 1, across, 1)
    return torch.where(shown, cells, 0.0).flatten(4, 5).flatten(2, 3)
