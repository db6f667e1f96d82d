"""LoMaR's branch (Chen et al. 2022): small windows, each a sequence of its own with mask tokens, and a linear layer."""

from itertools import product
from math import prod
from typing import ClassVar, final

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.patches import grid_of
from models.encoder.positions import mae_init
from models.encoder.vit import MaskedImages, encode
from models.masked.branch import PackedBranch
from models.masked.settings import Reconstruct
from models.masked.simmim import check_hidden_alone, covered_first


@final
class LoMaRBranch(PackedBranch):
    """A linear prediction of each window's hidden patches from the tokens of that window.

    branch = LoMaRBranch(encoder, Reconstruct(target="norm_pix"), window=7)

    A window is a sequence: class token, then its patches, hidden ones first. The encoder adds the positions, which are
    relative in the paper (encoder.position irpe), or those of the whole image.

    window  side of the windows that `predict` covers an image with, in patches
    """

    name = "lomar"
    masks: ClassVar[tuple[str, ...]] = ("window",)

    def __init__(
        self, encoder: VisionTransformer, settings: Reconstruct, window: int, *, keep_visible: bool = False
    ) -> None:
        check_hidden_alone("lomar", settings)
        super().__init__(encoder, settings, keep_visible=keep_visible)
        self.window = window
        self.mask_token = nn.Parameter(torch.empty(1, 1, encoder.embed_dim))
        nn.init.normal_(self.mask_token, std=0.02)  # as MAE's
        self.head = nn.Linear(encoder.embed_dim, self.target.width)
        self.head.apply(mae_init)

    def group(self, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> MaskedImages:
        """Return N · W sequences, each the patches of a window, those of the first image first."""
        assert hidden is not None  # masks of windows give it
        ids = torch.cat([hidden, visible], 2).flatten(0, 1)
        covered = covered_first(ids, hidden.shape[2])
        read = None if self.keep_visible else hidden.shape[2]
        token = self.mask_token[0, 0]
        return MaskedImages(images, covered, token, ids, _each(images, visible.shape[1]), drop_path=False, read=read)

    def forward(self, tokens: Tensor, images: Tensor, visible: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return the loss [] of images u8 [N, 3, H, W] from the tokens float [N · W, P + K, C] of their windows."""
        assert hidden is not None
        predicted = self.head(tokens[:, self.prefix : self.prefix + hidden.shape[2]])
        return self.target.loss(_joined(predicted, hidden), images, hidden.flatten(1))

    def visible_tokens(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return the tokens of visible patches, float [N, W · K, C]; needs `keep_visible`."""
        return _joined(tokens[:, -visible.shape[2] :], visible)

    def class_tokens(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return the mean of the class tokens of each image's windows, float [N, C]."""
        return tokens[:, 0].unflatten(0, visible.shape[:2]).mean(1)

    def predict_patches(self, encoder: VisionTransformer, images: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predict hidden patches anywhere in the image: float [N, L - K, target.width].

        Windows cover the image edge to edge. Where they overlap, at the right and at the bottom, the prediction is the
        mean of theirs.
        """
        grid = grid_of(images, self.patch)
        windows = covering(grid, self.window, images.device)
        n, (count, size) = len(images), windows.shape
        covered = torch.zeros(n, prod(grid), dtype=torch.bool, device=images.device).scatter(1, hidden, True)
        group = MaskedImages(
            images, covered[:, windows].flatten(0, 1), self.mask_token[0, 0],
            windows.repeat(n, 1), _each(images, count), drop_path=False,
        )  # fmt: skip
        (tokens,) = encode(encoder, [group])
        each = self.head(tokens[:, self.prefix :]).float().view(n, count * size, -1)
        sums = each.new_zeros(n, prod(grid), each.shape[2]).index_add(1, windows.flatten(), each)
        means = sums / windows.flatten().bincount()[:, None]
        return means.gather(1, hidden[..., None].expand(-1, -1, means.shape[2]))


def covering(grid: tuple[int, int], window: int, device: torch.device) -> Tensor:
    """List the patches i64 [T, patches] of windows that cover a grid edge to edge, the last ones flush with its end."""
    down, across = grid
    high, wide = min(window, down), min(window, across)
    corners = product(_starts(down, high), _starts(across, wide))
    inside = torch.arange(high)[:, None] * across + torch.arange(wide)
    return torch.stack([y * across + x + inside.flatten() for y, x in corners]).to(device)


def _starts(length: int, window: int) -> list[int]:
    return [*range(0, length - window, window), length - window]


def _each(images: Tensor, windows: int) -> Tensor:
    return torch.arange(len(images), device=images.device)[:, None].expand(-1, windows).flatten()


def _joined(rows: Tensor, ids: Tensor) -> Tensor:
    """Join the windows of an image: [N · W, k, C] -> [N, W · k, C], for ids [N, W, k]."""
    return rows.unflatten(0, ids.shape[:2]).flatten(1, 2)
