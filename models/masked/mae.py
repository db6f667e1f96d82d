"""MAE's branch: the encoder reads the visible patches, and a decoder predicts the hidden ones (He et al. 2022)."""

from functools import partial
from math import prod
from typing import final

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.layout import Layout
from models.encoder.packed import PackedBlock
from models.encoder.patches import grid_of, hidden_from_visible
from models.encoder.positions import mae_init, resampled, sincos_2d
from models.encoder.vit import MaskedImages, VisiblePatches, encode
from models.masked.branch import PackedBranch
from models.masked.settings import Reconstruct
from pipeline.errors import InputError


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
        """Return the target's loss [] of images u8 [N, 3, H, W] from the tokens float [N, P + K, C] of `group`."""
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


@final
class Decoder(nn.Module):
    """Embed, append mask tokens, `depth` blocks, norm, linear to patch² · 3 (MAE section 3, "MAE decoder").

    decoder = Decoder(384, (14, 14), 16)
    pixels = decoder(tokens, visible, predicted_ids(visible, 196))   # [N, M, 768]

    Tokens have the order [predicted, prefix, others] where MAE restores the raster order. Positions are added by id and
    attention does not depend on order, so the result is the same, and the predicted rows are one slice.

    encoder_width  width of the tokens that come in
    grid           patches down and across; positions of other grids are resampled from it
    prefix         tokens before the patches: class token and registers
    predicts       numbers predicted for each patch; patch² · 3 when absent
    mask_tokens    a learned token stands for hidden patches. False where the encoder had one in their places (Tab. 1c,
                   "encoder w/ [M]"): every patch then has a token already
    """

    def __init__(
        self,
        encoder_width: int,
        grid: tuple[int, int],
        patch: int,
        *,
        width: int = 512,  # MAE Tab. 1b
        depth: int = 8,  # MAE Tab. 1a
        heads: int = 16,
        prefix: int = 1,
        predicts: int | None = None,
        mask_tokens: bool = True,
    ) -> None:
        super().__init__()
        if depth < 1 or width % heads:
            raise InputError(f"a decoder has a block or more and heads that divide its width, got {depth} blocks, "
                             f"width {width}, {heads} heads")  # fmt: skip
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.prefix, self.grid = prefix, tuple(grid)
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width)) if mask_tokens else None
        self.register_buffer("positions", sincos_2d(width, grid).float(), persistent=False)
        self.blocks = nn.ModuleList(PackedBlock(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.norm = norm(width)
        self.predict = nn.Linear(width, predicts or patch * patch * 3)
        self.apply(mae_init)
        if mask_tokens:
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, tokens: Tensor, visible: Tensor, predict_ids: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Predict the patches `predict_ids`, [N, M, predicts], in their order.

        tokens       float [N, prefix + K, encoder_width]   the encoder's, final-normed; without mask tokens
                     [N, prefix + L, encoder_width], patches in raster order
        visible      i64 [N, K]   the patches that it read
        predict_ids  i64 [N, M]   all hidden ones (M = L - K), or all there are (M = L; MAE section 3, footnote 1):
                                  a visible patch is then predicted from its own token
        grid         patches of the images down and across; the decoder's own when absent

        Raises InputError for any other M.
        """
        positions = resampled(self.positions[None], self.grid, grid or self.grid)[0]
        patches, (samples, visible_patches) = len(positions), visible.shape
        x = self.embed(tokens)
        prefix, read = x[:, : self.prefix], x[:, self.prefix :]
        if self.mask_token is None:
            x = _predicted_first(read + positions, prefix, predict_ids)
            return self.predict(self.norm(self._through_blocks(x, predict_ids.shape[1])))
        hidden = self.mask_token + F.embedding(predict_ids, positions)
        if predict_ids.shape[1] == patches - visible_patches:
            x = torch.cat([hidden, prefix, read + F.embedding(visible, positions)], 1)
        elif predict_ids.shape[1] == patches:
            slots = self.mask_token.to(read.dtype).expand(samples, patches, -1)
            slots = slots.scatter(1, _over(visible, read), read)
            x = torch.cat([slots.gather(1, _over(predict_ids, slots)) + F.embedding(predict_ids, positions), prefix], 1)
        else:
            raise InputError(
                f"{visible_patches} of {patches} patches are visible: predict the other {patches - visible_patches} "
                f"or all, not {predict_ids.shape[1]}"
            )
        return self.predict(self.norm(self._through_blocks(x, predict_ids.shape[1])))

    def _through_blocks(self, x: Tensor, first: int) -> Tensor:
        """Tokens [N, T, width] -> the first of them, [N, first, width]."""
        samples, tokens, _ = x.shape
        layout, x = Layout(((samples, tokens),)), x.flatten(0, 1)
        for block in self.blocks[:-1]:
            x = block(x, layout=layout)
        return self.blocks[-1](x, layout=layout, keep=(first,)).unflatten(0, (samples, first))


def _predicted_first(patches: Tensor, prefix: Tensor, ids: Tensor) -> Tensor:
    """Order the tokens of every patch [N, L, width] as [those of `ids`, prefix, others]."""
    others = hidden_from_visible(ids, patches.shape[1])
    return torch.cat([patches.gather(1, _over(ids, patches)), prefix, patches.gather(1, _over(others, patches))], 1)


def _over(ids: Tensor, like: Tensor) -> Tensor:
    return ids[..., None].expand(-1, -1, like.shape[-1])


def predicted_ids(visible: Tensor, patches: int, *, everything: bool = False) -> Tensor:
    """List the patches to predict: the hidden ones (i64 [N, L - K]), or every patch (i64 [N, L])."""
    if everything:
        return torch.arange(patches, device=visible.device).expand(visible.shape[0], -1)
    return hidden_from_visible(visible, patches)
