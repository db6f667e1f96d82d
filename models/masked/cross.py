"""CrossMAE's decoder on an encoder, and which hidden patches it is asked for."""

from dataclasses import dataclass
from math import prod
from typing import Annotated, final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.patches import grid_of, hidden_from_visible
from models.encoder.vit import VisiblePatches, encode, encode_every, evaluating, normalisation_of
from models.masked.cross_decoder import CrossDecoder
from models.masked.target_subset import drawn, predicted_count
from models.masked.targets.select import Kind, target
from pipeline.flags import AT_LEAST_1, SHARE


@dataclass(frozen=True)
class Cross:
    """CrossMAE's decoder: no hidden patch sees another, so any number of them may be asked for."""

    depth: Annotated[int, AT_LEAST_1] = 12
    width: Annotated[int, AT_LEAST_1] = 512
    heads: Annotated[int, AT_LEAST_1] = 16
    every_layer: bool = True
    """Each block asks a learned mix of all the encoder's layers ("inter-block attention"), not its output alone."""
    predict: Annotated[float, SHARE] = 0.25
    """Share of all patches that is predicted, drawn among the hidden; at most data.mask.ratio, which predicts all."""
    target: Kind = "norm_pix"
    """See MAE's."""
    target_file: str | None = None
    """See MAE's."""


@final
class CrossReconstruction(nn.Module):
    """CrossMAE's objective for one encoder, which sees visible patches alone."""

    def __init__(self, encoder: VisionTransformer, settings: Cross) -> None:
        super().__init__()
        self.settings, self.patch = settings, encoder.patch_embed.patch_size[0]
        self.target = target(settings.target, settings.target_file, self.patch, normalisation_of(encoder))
        self.decoder = CrossDecoder(
            encoder.embed_dim,
            encoder.patch_embed.grid_size,
            predicts=self.target.width,
            width=settings.width,
            depth=settings.depth,
            heads=settings.heads,
            maps=len(encoder.blocks) + 1 if settings.every_layer else 1,
        )

    def layers(self, encoder: VisionTransformer, images: Tensor, visible: Tensor) -> list[Tensor]:
        """What the decoder asks: tokens float [N, P + K, C] of the patches `visible` (i64 [N, K]) of u8 images."""
        seen = VisiblePatches(images, visible)
        return encode_every(encoder, seen) if self.settings.every_layer else encode(encoder, [seen])

    def forward(
        self, layers: list[Tensor], images: Tensor, visible: Tensor, ids: Tensor, step: int, seed: int
    ) -> Tensor:
        """The target's loss [] on a part of the hidden patches of images u8 [N, 3, S, S] with ids i64 [N]."""
        grid = grid_of(images, self.patch)
        hidden = hidden_from_visible(visible, prod(grid))
        asked = drawn(hidden, predicted_count(self.settings.predict, prod(grid)), ids, step, seed)
        return self.target.loss(self.decoder(layers, asked, grid), images, asked)

    @torch.no_grad()
    def predict(self, encoder: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor | None:
        """Predicted pixels f32 [N, L - K, P] of all hidden patches, ascending; see models.masked.base.Branch."""
        with evaluating(encoder), evaluating(self):
            grid = grid_of(images, self.patch)
            hidden = hidden_from_visible(visible, prod(grid))
            predicted = self.decoder(self.layers(encoder, images, visible), hidden, grid)
            return self.target.to_pixels(predicted, images, hidden)
