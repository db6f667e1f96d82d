"""The simple feature pyramid of ViTDet: five levels from the one map of a plain ViT.

levels = FeaturePyramid(vit.embed_dim)(window_features(vit, images, 14, whole))     # strides 4, 8, 16, 32, 64
"""

from typing import final

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn


@final
class FeaturePyramid(nn.Module):
    """A map [N, width, h, w] -> [N, channels, 4h, 4w], 2h, h, h/2 and h/4: a quarter to four times the patches' stride.

    Two transposed convolutions of 2 x 2, which halve the channels, with a norm over channels and GELU between them;
    one; nothing; the largest of 2 x 2. Behind each a convolution of 1 x 1 and one of 3 x 3, without bias, each with a
    norm over channels. The fifth level is every second place of the fourth (detectron2: SimpleFeaturePyramid,
    LastLevelMaxPool). Convolutions begin as torch has them, there and here.
    """

    def __init__(self, width: int, channels: int = 256) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(width, half, 2, 2),
            LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
            *_smooth(quarter, channels),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(width, half, 2, 2), *_smooth(half, channels))
        self.fpn3 = nn.Sequential(*_smooth(width, channels))
        self.fpn4 = nn.Sequential(nn.MaxPool2d(2, 2), *_smooth(width, channels))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Compute the five levels, the finest first; of an odd side the fourth level leaves out the last patch."""
        levels = [level(features) for level in (self.fpn1, self.fpn2, self.fpn3, self.fpn4)]
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]


def _smooth(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 1, bias=False),
        LayerNorm2d(outputs),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        LayerNorm2d(outputs),
    )
