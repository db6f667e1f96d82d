"""PatchVQ: a small tokenizer, the nearest of K patches that k-means found (`python -m models.masked.fit_vq`). Ours."""

from typing import final

import torch
from torch import Tensor

from models.encoder.patches import patchify, unpatchify
from models.masked.targets.file import read
from models.masked.targets.tokenizer import Tokenizer


@final
class PatchVQ(Tokenizer):
    """Vector quantisation of single patches, without context: discrete targets that a CPU fits in minutes.

    codebook  f32 [K, patch² · 3]   pixels in 0..1, (y, x, channel)
    """

    def __init__(self, codebook: Tensor, patch: int) -> None:
        super().__init__()
        self.codes, self.stride = len(codebook), patch
        self.register_buffer("codebook", codebook.clone())

    def encode(self, images: Tensor) -> Tensor:
        """Codes i64 [N, cells], raster order, of pictures f32 [N, 3, H, W], 0..1."""
        return nearest(patchify(images, self.stride), self.codebook.float())

    def decode(self, codes: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pictures f32 [N, 3, H, W], 0..1, of codes [N, cells]."""
        return unpatchify(self.codebook[codes].float(), grid, self.stride)


def nearest(patches: Tensor, codebook: Tensor) -> Tensor:
    """Find the row of codebook [K, P] that is nearest to each patch [..., P]: i64 [...]."""
    # |x - c|² without |x|², which is the same for every c
    return (
        torch.addmm(codebook.square().sum(1), patches.flatten(0, -2), codebook.T, alpha=-2)
        .argmin(1)
        .view(patches.shape[:-1])
    )


def load_vq(file: str | None) -> PatchVQ:
    """Load what `models.masked.fit_vq` wrote; its patches may have another size than the encoder's."""
    held = read(file, "vq")
    return PatchVQ(held["codebook"], held["patch"])
