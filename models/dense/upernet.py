"""UperNet (Xiao et al. 2018), the decoder of BEiT's and MAE's segmentation, and the FCN head that helps it to learn.

scores = UperNet(width=768, classes=150, channels=768)(levels)     # [N, 150, H/4, W/4]

Written here rather than taken from segmentation-models-pytorch: its UPerNet has no auxiliary head and other layers than
the papers' (mmsegmentation's UPerHead and FCNHead), and 100 lines are less than a package that everybody would lock.
"""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.batch import IGNORED

POOLS = 1, 2, 3, 6
"""Sides to which the coarsest picture is averaged (PSPNet; mmseg: pool_scales)."""


def conv(inputs: int, outputs: int, side: int) -> nn.Sequential:
    """A convolution that keeps the size, batch norm and ReLU (mmcv's ConvModule)."""
    layers = nn.Sequential(
        nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
    nn.init.kaiming_normal_(layers[0].weight, mode="fan_out", nonlinearity="relu")  # mmcv: kaiming_init
    return layers


def resized(picture: Tensor, like: Tensor | tuple[int, int]) -> Tensor:
    """Resize [N, C, h, w] bilinearly to the height and width of another picture, or to the two given."""
    sides = like if isinstance(like, tuple) else tuple(like.shape[2:])
    return picture if tuple(picture.shape[2:]) == sides else F.interpolate(picture, sides, mode="bilinear")


def classifier(width: int, classes: int, dropout: float) -> nn.Sequential:
    """Dropout of whole channels and a score a class: [N, width, h, w] -> [N, classes, h, w] (mmseg: conv_seg)."""
    layers = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1))
    nn.init.normal_(layers[1].weight, std=0.01)
    nn.init.zeros_(layers[1].bias)
    return layers


@final
class UperNet(nn.Module):
    """Four levels [N, width, h_i, w_i], the finest first -> class scores [N, classes, h_1, w_1].

    The coarsest level is averaged to 1, 2, 3 and 6 cells a side, and joined with these (pyramid pooling). Each level
    is added to the one above it, and all four, resized to the finest, are scored together (mmseg: UPerHead).
    """

    def __init__(self, width: int, classes: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.pools = nn.ModuleList(conv(width, channels, 1) for _ in POOLS)
        self.pooled = conv(width + len(POOLS) * channels, channels, 3)
        self.laterals = nn.ModuleList(conv(width, channels, 1) for _ in range(3))
        self.smooth = nn.ModuleList(conv(channels, channels, 3) for _ in range(3))
        self.joined = conv(4 * channels, channels, 3)
        self.scores = classifier(channels, classes, dropout)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Score every place of the finest level."""
        coarsest = levels[-1]
        pools = [
            resized(pool(F.adaptive_avg_pool2d(coarsest, side)), coarsest)
            for side, pool in zip(POOLS, self.pools, strict=True)
        ]
        top = self.pooled(torch.cat([coarsest, *pools], 1))
        each = [lateral(level) for lateral, level in zip(self.laterals, levels[:-1], strict=True)] + [top]
        for finer in (2, 1, 0):
            each[finer] = each[finer] + resized(each[finer + 1], each[finer])
        smooth = [smooth(level) for smooth, level in zip(self.smooth, each[:-1], strict=True)] + [top]
        return self.scores(self.joined(torch.cat([resized(level, smooth[0]) for level in smooth], 1)))


@final
class FCNHead(nn.Sequential):
    """One convolution of 3 x 3 and a score a class: [N, width, h, w] -> [N, classes, h, w] (mmseg: FCNHead)."""

    def __init__(self, width: int, classes: int, channels: int = 256, dropout: float = 0.1) -> None:
        super().__init__(conv(width, channels, 3), classifier(channels, classes, dropout))


def pixel_loss(scores: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of scores [N, C, h, w], resized to the pixels, and classes u8 [N, H, W]: f32 [].

    Pixels that are IGNORED add nothing, and the mean is over all pixels, theirs included (mmseg: avg_non_ignore
    False): the loss of a batch is the mean of its micro-batches', and is defined where no pixel has a class.
    """
    wanted = classes.long()
    each = resized(scores.float(), (wanted.shape[1], wanted.shape[2]))
    return F.cross_entropy(each, wanted, ignore_index=IGNORED, reduction="sum") / wanted.numel()
