"""SimMIM's branch (Xie et al. 2022): mask tokens inside the encoder, one linear layer for a decoder, an L1 loss."""

from math import prod
from typing import final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.patches import grid_of, hidden_from_visible
from models.encoder.vit import MaskedImages, encode
from models.masked.branch import PackedBranch
from models.masked.settings import Reconstruct
from pipeline.errors import InputError


@final
class SimMIMBranch(PackedBranch):
    """A linear prediction of hidden patches from an encoder that gets a learned token in their place.

    branch = SimMIMBranch(encoder, Reconstruct(), drop_path=True)

    The loss is the mean over masked pixels and channels of the absolute error (SimMIM code; error "squared" is
    its L2). SimMIM pre-trains with stochastic depth (`drop_path`), MAE and LoMaR without.
    """

    name = "simmim"

    def __init__(
        self, encoder: VisionTransformer, settings: Reconstruct, *, keep_visible: bool = False, drop_path: bool = False
    ) -> None:
        check_hidden_alone("simmim", settings)
        super().__init__(encoder, settings, keep_visible=keep_visible, default_error="absolute")
        self.drop_path = drop_path
        self.mask_token = nn.Parameter(torch.empty(1, 1, encoder.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)  # SimMIM code
        self.head = nn.Linear(encoder.embed_dim, self.target.width)
        # With hidden patches first the last block can leave out the others. Relative positions would then differ from
        # image to image, and cost more than that saves
        self.hidden_first = not keep_visible and not encoder.blocks[0].relative

    def group(self, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> MaskedImages:
        """Return every patch, the hidden ones as mask tokens: hidden ones first, or all in raster order."""
        token, patches = self.mask_token[0, 0], prod(grid_of(images, self.patch))
        if not self.hidden_first:
            covered = torch.ones(len(visible), patches, dtype=torch.bool, device=visible.device)
            return MaskedImages(images, covered.scatter(1, visible, False), token, drop_path=self.drop_path)
        ids = torch.cat([hidden_from_visible(visible, patches), visible], 1)
        covered = covered_first(ids, patches - visible.shape[1])
        return MaskedImages(images, covered, token, ids, drop_path=self.drop_path, read=patches - visible.shape[1])

    def forward(self, tokens: Tensor, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return the loss [] of images u8 [N, 3, H, W] from the tokens float [N, P + K, C] of `group`."""
        ids = hidden_from_visible(visible, prod(grid_of(images, self.patch)))
        return self.target.loss(self._predictions(tokens, ids), images, ids)

    def visible_tokens(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return the tokens of visible patches, float [N, K, C]; needs `keep_visible`."""
        return _gathered(tokens[:, self.prefix :], visible)

    def predict_patches(self, encoder: VisionTransformer, images: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predict the target of all hidden patches: float [N, L - K, target.width]."""
        (tokens,) = encode(encoder, [self.group(images, visible)])
        return self._predictions(tokens, hidden)

    def _predictions(self, tokens: Tensor, ids: Tensor) -> Tensor:
        patches = tokens[:, self.prefix :]
        return self.head(patches if self.hidden_first else _gathered(patches, ids))


def check_hidden_alone(kind: str, settings: Reconstruct) -> None:
    """Raise InputError if settings ask a branch for a loss on visible patches, or for mask tokens, which it has."""
    if settings.encoder_mask_tokens:
        raise InputError(
            f"branch {kind} has mask tokens in its encoder as it is; leave method.reconstruct.encoder_mask_tokens out"
        )
    if settings.patches != "hidden":
        raise InputError(
            f"branch {kind} predicts hidden patches alone, got method.reconstruct.patches {settings.patches}; "
            "set it to hidden"
        )


def covered_first(ids: Tensor, hidden: int) -> Tensor:
    """Mark the first `hidden` of the patches `ids` [n, K]: bool [n, K]."""
    return (torch.arange(ids.shape[1], device=ids.device) < hidden).expand_as(ids)


def _gathered(tokens: Tensor, ids: Tensor) -> Tensor:
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))
