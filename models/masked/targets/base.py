"""What a target is: how wide its prediction of a patch is, the loss of one, and a picture of it."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.encoder.patches import Normalisation, gather_patches, normalised
from pipeline.errors import InputError


class Target(nn.Module, ABC):
    """What the decoder's output is compared with (MAE Table 1d). It learns nothing: what it knows are buffers, or
    parameters that require no gradient, so that a checkpoint holds it and no optimiser, average or DDP touches it.

    name   what its loss is of, in the journal and on the terminal
    width  numbers predicted for each patch
    """

    name: ClassVar[str]
    width: int

    @abstractmethod
    def loss(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        """The loss [], in f32 whatever the network ran in.

        predicted  float [N, M, width]
        images     u8 [N, 3, S, S], 0..255; or float, normalised as the encoder saw it
        ids        i64 [N, M]   the patches that were predicted
        """

    @abstractmethod
    def to_pixels(self, predicted: Tensor, images: Tensor, ids: Tensor) -> Tensor | None:
        """The predicted pixels, f32 [N, M, patch² · 3], normalised as the encoder's input is (norm_pix: in its own
        scale); None where there is no picture of it."""


def check_some(ids: Tensor) -> None:
    """Raise InputError if no patch is predicted: the mean would be 0/0."""
    if ids.shape[1] == 0:
        raise InputError("no patch is hidden, so there is nothing to predict; choose a mask ratio above 0")


def true_patches(images: Tensor, ids: Tensor, patch: int, dtype: torch.dtype, normalisation: Normalisation) -> Tensor:
    """The pixels of patches `ids` as the encoder's input has them, [N, M, patch² · 3] in `dtype`."""
    return normalised(gather_patches(images, None, ids, patch), dtype, normalisation).to(dtype)


def exact(like: Tensor) -> torch.autocast:
    """No autocast: a target's own arithmetic stays in f32 where the network runs in bfloat16."""
    return torch.autocast(like.device.type, enabled=False)
