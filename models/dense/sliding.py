"""Score an image of any size by windows of the size that was trained on, which overlap (mmsegmentation: slide).

scores = slide(score, image, size=(512, 512), stride=341, classes=150)     # f32 [150, H, W]
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.dense.cut import PADDING, padded


def starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side: every `stride` pixels, the last moved back to end with the image.

    starts(683, 512, 341)     # [0, 171]
    """
    count = max(side - window + stride - 1, 0) // stride + 1
    return [max(0, min(number * stride, side - window)) for number in range(count)]


def slide(
    score: Callable[[Tensor], Tensor], image: Tensor, size: tuple[int, int], stride: int, classes: int, batch: int = 8
) -> Tensor:
    """Average the scores of all windows that cover a pixel: f32 [classes, H, W].

    score  windows u8 [n, 3, *size] -> scores [n, classes, *size]
    image  u8 [3, H, W]; where it is smaller than a window it is padded with ImageNet's mean colour
    batch  windows that are scored at once
    """
    height, width = image.shape[1:]
    whole = padded(image, size, PADDING)
    total = torch.zeros(classes, *whole.shape[1:], device=image.device)
    seen = torch.zeros(whole.shape[1:], device=image.device)
    places = [
        (slice(top, top + size[0]), slice(left, left + size[1]))
        for top in starts(whole.shape[1], size[0], stride)
        for left in starts(whole.shape[2], size[1], stride)
    ]
    for part in _parts(places, batch):
        found = score(torch.stack([whole[:, rows, columns] for rows, columns in part])).float()
        for (rows, columns), scores in zip(part, found, strict=True):
            total[:, rows, columns] += scores
            seen[rows, columns] += 1
    return (total / seen)[:, :height, :width]


def _parts(places: Sequence[tuple[slice, slice]], size: int) -> list[Sequence[tuple[slice, slice]]]:
    return [places[first : first + size] for first in range(0, len(places), size)]
