"""MAE's branch: a decoder on the encoder's visible tokens."""

from math import prod
from typing import final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.patches import grid_of
from models.encoder.vit import MaskedImages, VisiblePatches, encode
from models.masked.branch import PackedBranch
from models.masked.decoder import Decoder, predicted_ids
from models.masked.settings import Reconstruct


@final
class MAEBranch(PackedBranch):
    """MAE's decoder and loss on an encoder (section 3).

    branch = MAEBranch(encoder, Reconstruct(depth=8, width=512, heads=16))
    """

    name = "mae"

    def __init__(self, encoder: VisionTransformer, settings: Reconstruct, *, keep_visible: bool = False) -> None:
        super().__init__(encoder, settings, keep_visible=keep_visible)
        self.mask_token = None
        if settings.encoder_mask_tokens:
            self.mask_token = nn.Parameter(torch.empty(1, 1, encoder.embed_dim))
            nn.init.normal_(self.mask_token, std=0.02)  # as the decoder's; the paper gives none
        self.decoder = Decoder(
            encoder.embed_dim,
            encoder.patch_embed.grid_size,
            self.patch,
            width=settings.width,
            depth=settings.depth,
            heads=settings.heads,
            prefix=self.prefix,
            predicts=self.target.width,
            mask_tokens=not settings.encoder_mask_tokens,
        )

    def group(self, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> VisiblePatches | MaskedImages:
        """Return the visible patches; with encoder_mask_tokens all patches, in raster order."""
        if self.mask_token is None:
            return VisiblePatches(images, visible)
        covered = torch.ones(len(visible), prod(grid_of(images, self.patch)), dtype=torch.bool, device=visible.device)
        return MaskedImages(images, covered.scatter(1, visible, False), self.mask_token[0, 0], drop_path=False)

    def forward(self, tokens: Tensor, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return the target's loss [] of images u8 [N, 3, S, S] from the tokens float [N, P + K, C] of `group`."""
        grid = grid_of(images, self.patch)
        ids = predicted_ids(visible, prod(grid), everything=self.settings.patches == "all")
        return self.target.loss(self.decoder(tokens, visible, ids, grid), images, ids)

    def visible_tokens(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return the tokens of visible patches, float [N, K, C]."""
        patches = tokens[:, self.prefix :]
        if self.mask_token is None:
            return patches
        return patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[-1]))

    def predict_patches(self, encoder: VisionTransformer, images: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predict the target of all hidden patches: float [N, L - K, target.width]."""
        (tokens,) = encode(encoder, [self.group(images, visible)])
        return self.decoder(tokens, visible, hidden, grid_of(images, self.patch))
