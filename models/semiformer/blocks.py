"""Parts of the convolutional stream: the stem that both streams start from, and the residual bottleneck."""

from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6
"""Epsilon of every batch norm, as in Conformer (Peng et al. 2021), which Semiformer extends."""
EXPANSION = 4


@final
class Stem(nn.Module):
    """The stem: pixels float [N, 3, H, W] -> map float [N, C, H / s, W / s], s = patch / 4; a token has 4 x 4 cells.

    patch 16   7 x 7 convolution of stride 2, batch norm, ReLU, 3 x 3 max-pool of stride 2: ResNet's
    patch 8    without the pool
    patch 4    a 3 x 3 convolution of stride 1 instead, as ResNets for small images have it
    """

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        kernel, stride = (3, 1) if patch == 4 else (7, 2)
        self.conv = nn.Conv2d(3, channels, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels, EPSILON)
        self.pool = nn.MaxPool2d(3, 2, 1) if patch == 16 else nn.Identity()

    def forward(self, pixels: Tensor, *, frozen: bool = False) -> Tensor:
        """Compute the map; `frozen`, in train mode too, normalises by the running statistics without updating them."""
        x, norm = self.conv(pixels), self.norm
        if frozen:
            # copies, as a train-mode pass before the backward of this one would change the originals under autograd
            mean, variance = norm.running_mean.clone(), norm.running_var.clone()
            x = F.batch_norm(x, mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps)
        else:
            x = norm(x)
        return self.pool(x.relu())


@final
class ConvBlock(nn.Module):
    """ResNet's bottleneck: 1 x 1 to a quarter of the channels, 3 x 3 with the stride, 1 x 1, added to the input.

    The input goes through a 1 x 1 convolution of its own where `channels_in` or the stride changes its shape.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        inner, changes = channels // EXPANSION, stride != 1 or channels_in != channels
        self.reduce = _conv_norm(channels_in, inner, 1)
        self.mix = _conv_norm(inner, inner, 3, stride)
        self.expand = _conv_norm(inner, channels, 1)
        self.shortcut = _conv_norm(channels_in, channels, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, channels_in, h, w] -> float [N, channels, h / stride, w / stride]."""
        y = self.mix(self.reduce(x).relu()).relu()
        return (self.expand(y) + self.shortcut(x)).relu()


def _conv_norm(channels_in: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels, EPSILON))
