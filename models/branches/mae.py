"""MAE's branch: a decoder on the encoder's visible tokens, and what it should predict."""

from dataclasses import dataclass
from math import prod
from typing import Literal, final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from models.branches.base import Branch
from models.decoder import Decoder, predicted_ids
from models.losses import pixel_loss
from models.patches import grid_of
from models.vit import Part, encode, evaluating


@dataclass(frozen=True)
class Reconstruct:
    """The decoder's size and its target; defaults are MAE's (Table 1a, b, c, d)."""

    depth: int = 8
    width: int = 512
    heads: int = 16
    target: Literal["pixel", "norm_pix"] = "pixel"
    """norm_pix: each patch is normalised by its own mean and spread."""
    patches: Literal["hidden", "all"] = "hidden"
    """Which patches the loss looks at."""


@final
class MAEBranch(Branch):
    """MAE's decoder and loss for one encoder (section 3)."""

    def __init__(self, encoder: VisionTransformer, settings: Reconstruct, *, keep_visible: bool = False) -> None:
        super().__init__(encoder, keep_visible=keep_visible)
        self.settings = settings
        self.decoder = Decoder(
            encoder.embed_dim,
            encoder.patch_embed.grid_size,
            self.patch,
            width=settings.width,
            depth=settings.depth,
            heads=settings.heads,
            prefix=encoder.num_prefix_tokens,
        )

    def group(self, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> Part:
        """The visible patches alone."""
        return Part(images, visible)

    def forward(self, tokens: Tensor, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Pixel loss of `images` (u8 [N, 3, S, S]) from the tokens (float [N, P + K, C]) of their visible patches."""
        grid = grid_of(images, self.patch)
        ids = predicted_ids(visible, prod(grid), everything=self.settings.patches == "all")
        return pixel_loss(
            self.decoder(tokens, visible, ids, grid),
            images,
            ids,
            self.patch,
            normalise=self.settings.target == "norm_pix",
            normalisation=self.normalisation,
        )

    @torch.no_grad()
    def predict(self, encoder: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
        """Predicted pixels f32 [N, L - K, P] of the hidden patches, in ascending order, in the target's own scale."""
        with evaluating(encoder), evaluating(self):
            (tokens,) = encode(encoder, [Part(images, visible)])
            grid = grid_of(images, self.patch)
            return self.decoder(tokens, visible, predicted_ids(visible, prod(grid)), grid).float()
