"""CrossMAE's branch (Fu et al. 2024): a cross-attention decoder that predicts a drawn part of the hidden patches."""

from math import prod
from typing import final

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from models.encoder.patches import grid_of, hidden_from_visible
from models.encoder.vit import VisiblePatches, encode, encode_every, normalisation_of
from models.masked.branch import Branch
from models.masked.cross_decoder import CrossDecoder
from models.masked.settings import Cross
from models.masked.targets.build import build_target
from pipeline import rng
from pipeline.batch import Unlabelled
from pipeline.errors import InputError

TAG = 7  # keeps the draw's numbers apart from those of the mask


@final
class CrossMAEBranch(Branch):
    """CrossMAE's decoder and loss on an encoder that reads visible patches alone.

    branch = CrossMAEBranch(encoder, Cross(predict=0.25), seed=0)

    seed  of the draw of predicted patches
    """

    name = "crossmae"

    def __init__(self, encoder: VisionTransformer, settings: Cross, seed: int) -> None:
        super().__init__()
        self.settings, self.seed, self.patch = settings, seed, encoder.patch_embed.patch_size[0]
        self.target = build_target(settings.target, settings.target_file, self.patch, normalisation_of(encoder))
        self.decoder = CrossDecoder(
            encoder.embed_dim,
            encoder.patch_embed.grid_size,
            predicts=self.target.width,
            width=settings.width,
            depth=settings.depth,
            heads=settings.heads,
            maps=len(encoder.blocks) + 1 if settings.every_layer else 1,
        )

    def loss(self, encoder: VisionTransformer, unlabelled: Unlabelled, step: int) -> Tensor:
        """Return the target's loss [] of a part of the hidden patches, drawn by seed, step and image id."""
        images, visible = unlabelled.weak, unlabelled.visible
        grid = grid_of(images, self.patch)
        layers, hidden = self.layers(encoder, images, visible), hidden_from_visible(visible, prod(grid))
        ids = drawn(hidden, predicted_count(self.settings.predict, prod(grid)), unlabelled.ids, step, self.seed)
        return self.target.loss(self.decoder(layers, ids, grid), images, ids)

    def predict_patches(self, encoder: VisionTransformer, images: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predict the target of all hidden patches: float [N, L - K, target.width]."""
        return self.decoder(self.layers(encoder, images, visible), hidden, grid_of(images, self.patch))

    def layers(self, encoder: VisionTransformer, images: Tensor, visible: Tensor) -> list[Tensor]:
        """Encode the patches `visible` (i64 [N, K]) of u8 images: the layers [N, P + K, C] that the decoder reads."""
        group = VisiblePatches(images, visible)
        return encode_every(encoder, group) if self.settings.every_layer else encode(encoder, [group])


def predicted_count(share: float, patches: int) -> int:
    """Count the predicted patches of an image: floor(share · L). Raises InputError if there is none."""
    count = int(share * patches + 1e-9)
    if count < 1:
        raise InputError(f"a share of {share:g} of {patches} patches is none; raise method.reconstruct.predict")
    return count


def drawn(hidden: Tensor, count: int, images: Tensor, step: int, seed: int) -> Tensor:
    """Draw `count` of each image's hidden patches, every choice as likely as any other: i64 [N, count], ascending.

    The numbers are those of pipeline.rng by (seed, step, image id), drawn on the device: the choice depends neither on
    the rank that holds the image nor on how a step is cut, and is the same after a stop.

    hidden  i64 [N, M], ascending
    images  i64 [N]   their ids
    """
    if count == hidden.shape[1]:
        return hidden
    step_key = rng.mix(rng.mix(np.array([seed], np.uint64)) ^ np.uint64(step))
    keys = rng.mix_i64(rng.mix_i64(int(step_key.view(np.int64)[0]) ^ images) ^ rng.MASK)  # as rng.keys
    keys = rng.mix_i64(rng.mix_i64(keys) ^ TAG)  # as rng.derive
    counters = torch.arange(hidden.shape[1], device=hidden.device) * rng.GOLDEN_I64
    numbers = rng.shifted_i64(rng.mix_i64(keys[:, None] + counters), 1)  # the order of rng.uniforms
    first = numbers.argsort(1)[:, :count].sort(1).values
    return hidden.gather(1, first)
