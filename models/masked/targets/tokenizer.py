"""What a tokenizer is: a picture in, one of so many codes for each cell of a grid out (BEiT; MAE Table 1d, "dVAE")."""

from abc import ABC, abstractmethod
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.masked.targets.base import exact


class Tokenizer(nn.Module, ABC):
    """Never trained here: its parameters ask for no gradient, and it stays in evaluation mode.

    codes   how many there are
    stride  pixels to a cell: a picture of S x S has (S / stride)² codes
    """

    codes: int
    stride: int

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """i64 [N, down · across], raster order, of pictures f32 [N, 3, down · stride, across · stride], RGB, 0..1."""

    @abstractmethod
    def decode(self, codes: Tensor, grid: tuple[int, int]) -> Tensor | None:
        """The pictures, f32 [N, 3, down · stride, across · stride], 0..1, of codes [N, down · across]; None if it
        cannot."""

    @torch.no_grad()
    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Codes i64 [N, down · across] of u8 [N, 3, S, S], or of float in 0..1: in f32 whatever runs around it.

        Pictures of another size than the grid wants are resized, bicubically with antialiasing (BEiT cuts the same crop
        a second time, from the original and with a filter of its own).
        """
        with exact(images):
            pictures = images.float() / 255 if images.dtype == torch.uint8 else images.float()
            return self.encode(resized(pictures, (grid[0] * self.stride, grid[1] * self.stride)))

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the method around it does."""
        return super().train(False)


def resized(pictures: Tensor, sides: tuple[int, int]) -> Tensor:
    """f32 [N, 3, H, W] in 0..1, at another height and width."""
    if tuple(pictures.shape[-2:]) == sides:
        return pictures
    return F.interpolate(pictures, sides, mode="bicubic", antialias=True).clamp(0, 1)
