"""Target: what a masked branch predicts of a patch, the loss of a prediction, and its pixels."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.encoder.patches import Normalisation, gather_patches, normalised
from pipeline.errors import InputError

Kind = Literal["pixel", "norm_pix", "pca", "tokens"]
Error = Literal["squared", "absolute"]


class Target(nn.Module, ABC):
    """What a decoder's output is compared with (MAE Table 1d).

    target = build_target("norm_pix", None, patch=16, normalisation=IMAGENET)
    loss = target.loss(decoder(tokens, visible, hidden), images, hidden)

    It is not trained: its state is in buffers, or in parameters that require no gradient, so that a checkpoint holds it
    and no optimiser, average or DDP changes it.

    name   key of its loss in the journal and on the terminal
    width  numbers predicted for each patch
    """

    name: ClassVar[str]
    width: int

    @abstractmethod
    def loss(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        """Compute the loss [], in f32 whatever type the network ran in.

        predicted  float [N, M, width]
        images     u8 [N, 3, H, W], 0..255; or float, normalised as the encoder's input
        ids        i64 [N, M]   the patches that were predicted
        """

    @abstractmethod
    def to_pixels(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor | None:
        """Turn a prediction into pixels f32 [N, M, patch² · 3], normalised as the encoder's input is (norm_pix: in the
        scale of each patch); None where the target has no pixels."""


def check_not_empty(ids: Tensor) -> None:
    """Raise InputError if no patch is predicted: the mean would be 0/0."""
    if ids.shape[1] == 0:
        raise InputError("no patch is hidden, so there is nothing to predict; choose a mask ratio above 0")


def true_patches(images: Tensor, ids: Tensor, patch: int, dtype: torch.dtype, normalisation: Normalisation) -> Tensor:
    """Gather the pixels of patches `ids`, normalised as the encoder's input, [N, M, patch² · 3] in `dtype`."""
    return normalised(gather_patches(images, None, ids, patch), dtype, normalisation).to(dtype)
