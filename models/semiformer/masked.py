"""MAE beside a Semiformer: the transformer's stream alone on the visible patches, and MAE's decoder."""

from math import prod
from typing import final

import torch
from torch import Tensor, nn

from models.encoder.patches import grid_of
from models.encoder.vit import evaluating
from models.masked.base import Reconstruct
from models.masked.decoder import predicted_ids
from models.masked.mae import MAEBranch
from models.masked.targets.base import Target
from models.semiformer.model import Semiformer
from pipeline.errors import InputError
from pipeline.spec import Mask


@final
class StreamMAE(nn.Module):
    """MAE's decoder and target on `Semiformer.visible_tokens` (Semi-MAE Table 2, "Semiformer + MAE").

    How a hybrid is masked the paper does not say. A coupling needs every cell of the map, so a mask and couplings
    exclude each other: the couplings rest here, and with them the convolutional stream. Stem, patch embedding, blocks
    and norm are shared.

    Raises InputError for windows, and for mask tokens in the encoder.
    """

    def __init__(self, encoder: Semiformer, settings: Reconstruct, mask: Mask) -> None:
        super().__init__()
        if mask.kind not in MAEBranch.masks:
            raise InputError(
                f"the masked branch reads masks of kind {', '.join(MAEBranch.masks)}, got {mask.kind}; "
                "set --data.mask.kind"
            )
        if settings.encoder_mask_tokens:
            raise InputError(
                "reconstruct.encoder_mask_tokens is for ViTs: a Semiformer's masked branch sees visible patches only; "
                "leave it off"
            )
        self.mae = MAEBranch(encoder, settings)
        self.settings, self.patch = settings, self.mae.patch

    @property
    def target(self) -> Target:
        """What is predicted."""
        return self.mae.target

    def forward(self, encoder: Semiformer, images: Tensor, visible: Tensor) -> Tensor:
        """The loss [] of images u8 [N, 3, S, S] of which the patches visible i64 [N, K] are seen."""
        return self.mae(encoder.visible_tokens(images, visible), images, visible)

    @torch.no_grad()
    def predict(self, encoder: Semiformer, images: Tensor, visible: Tensor) -> Tensor | None:
        """As Branch.predict: f32 [N, L - K, P], the pixels of the hidden patches."""
        with evaluating(encoder), evaluating(self):
            grid = grid_of(images, self.patch)
            ids = predicted_ids(visible, prod(grid))
            predicted = self.mae.decoder(encoder.visible_tokens(images, visible), visible, ids, grid)
            return self.target.to_pixels(predicted, images, ids)
