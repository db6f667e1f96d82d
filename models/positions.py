"""Fixed positions and MAE's initial weights."""

import torch
from torch import Tensor, nn

from pipeline.errors import InputError


def sincos_2d(width: int, grid: tuple[int, int]) -> Tensor:
    """f64 [L, width], raster order: the first half encodes x, the second y, each as sines then cosines of
    position / 10000^(i / (width / 4)) (MAE's table; "we adopt sine-cosine", MAE section 3).

    Raises InputError if 4 does not divide `width`.
    """
    if width % 4:
        raise InputError(f"sine-cosine positions need a width that 4 divides, got {width}; choose position learned")
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (x, y)]
    return torch.cat([half for angle in angles for half in (angle.sin(), angle.cos())], 1)


def mae_init(module: nn.Module) -> None:
    """MAE's initial weights for one module, for `model.apply`: Xavier-uniform linears, zero biases.

    A patch embedding (a convolution) is initialised as the linear layer that it is.
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
