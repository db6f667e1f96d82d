"""Tokenizer: a picture in, a code for each cell of a grid out (BEiT; MAE Table 1d, "dVAE")."""

from abc import ABC, abstractmethod
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.full_precision import full_precision


class Tokenizer(nn.Module, ABC):
    """An encoder of pictures as codes, not trained: its parameters require no gradient, and it stays in eval mode.

    codes = tokenizer(images, (14, 14))   # i64 [N, 196]

    codes   how many codes there are
    stride  pixels to a cell: a picture of S x S has (S / stride)² codes
    """

    codes: int
    stride: int

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Codes i64 [N, down · across], raster order, of RGB f32 [N, 3, down · stride, across · stride], 0..1."""

    @abstractmethod
    def decode(self, codes: Tensor, grid: tuple[int, int]) -> Tensor | None:
        """Pictures f32 [N, 3, down · stride, across · stride], 0..1, of codes [N, down · across]; None where the
        tokenizer has no decoder."""

    @torch.no_grad()
    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Codes i64 [N, down · across] of u8 [N, 3, H, W], or of float in 0..1; in f32 under autocast, too.

        Pictures that are not of the grid's size are resized, bicubically with antialiasing (BEiT cuts the same crop a
        second time, from the original and with another filter).
        """
        with full_precision(images.device):
            pictures = images.float() / 255 if images.dtype == torch.uint8 else images.float()
            return self.encode(resized(pictures, (grid[0] * self.stride, grid[1] * self.stride)))

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode when the method around it trains."""
        return super().train(False)


def resized(pictures: Tensor, sides: tuple[int, int]) -> Tensor:
    """Resize pictures f32 [N, 3, H, W] in 0..1 to a height and width."""
    if tuple(pictures.shape[-2:]) == sides:
        return pictures
    return F.interpolate(pictures, sides, mode="bicubic", antialias=True).clamp(0, 1)
