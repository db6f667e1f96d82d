"""CrossMAE's branch (Fu et al. 2024): a cross-attention decoder that predicts a drawn part of the hidden patches."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.packed import compiled
from models.encoder.patches import grid_of, hidden_from_visible
from models.encoder.positions import mae_init, resampled, sincos_2d
from models.encoder.vit import VisiblePatches, encode, encode_every, normalisation_of
from models.masked.branch import Branch
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

    settings: Cross

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
        assert visible is not None  # the method asks for it
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


@final
class CrossBlock(nn.Module):
    """Pre-norm cross-attention, then an MLP; queries of `width`, keys and values from `memory_width` without a norm.

    No query attends to another, so the outputs of some do not depend on how many there are.

    compiler  back-end of torch.compile for the block (models.distributed.compile); None runs it eagerly
    """

    compiler: str | Callable | None = None

    def __init__(self, width: int, memory_width: int, heads: int) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.heads = heads
        self.norm1, self.norm2 = norm(width), norm(width)
        self.queries = nn.Linear(width, width)
        self.keys_values = nn.Linear(memory_width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Attend from float [N, M, width] to memory [N, T, memory_width] -> [N, M, width]."""
        run = _attend if self.compiler is None else compiled(_attend, self.compiler)
        return run(self, x, memory)


def _attend(block: CrossBlock, x: Tensor, memory: Tensor) -> Tensor:
    q, k, v = (
        each.unflatten(2, (block.heads, -1)).transpose(1, 2)
        for each in (block.queries(block.norm1(x)), *block.keys_values(memory).chunk(2, -1))
    )
    x = x + block.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x))


@final
class CrossDecoder(nn.Module):
    """Mask tokens with positions, `depth` blocks of cross-attention, norm, linear to `predicts`.

    decoder = CrossDecoder(768, (14, 14), predicts=768, maps=13)
    pixels = decoder(encode_every(vit, VisiblePatches(images, visible)), ids)   # [N, M, 768]

    encoder_width  width of the encoder's tokens
    grid           patches down and across; positions of other grids are resampled from it
    maps           layers of the encoder that are attended to: 1, its output; more, and each block attends to a learned
                   mix of all of them, normed ("inter-block attention"). The mix starts normal with variance 1 / maps
    """

    def __init__(
        self,
        encoder_width: int,
        grid: tuple[int, int],
        *,
        predicts: int,
        width: int = 512,
        depth: int = 12,
        heads: int = 16,
        maps: int = 1,
    ) -> None:
        super().__init__()
        if depth < 1 or width % heads:
            raise InputError(f"a decoder has a block or more and heads that divide its width, got {depth} blocks, "
                             f"width {width}, {heads} heads")  # fmt: skip
        self.grid = tuple(grid)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.register_buffer("positions", sincos_2d(width, grid).float(), persistent=False)
        self.mix, self.norms = None, None
        if maps > 1:
            self.mix = nn.Parameter(torch.empty(depth, maps))
            self.norms = nn.ModuleList(nn.LayerNorm(encoder_width, eps=1e-6) for _ in range(depth))
        self.blocks = nn.ModuleList(CrossBlock(width, encoder_width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, predicts)
        self.apply(mae_init)
        nn.init.normal_(self.mask_token, std=0.02)
        if maps > 1:
            nn.init.normal_(self.mix, std=maps**-0.5)

    def forward(self, layers: list[Tensor], ids: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Predict the patches `ids` (i64 [N, M], any of them): [N, M, predicts], in their order.

        layers  `maps` of float [N, T, encoder_width]: the tokens of visible patches, with the encoder's positions
        grid    patches of the images down and across; the decoder's own when absent
        """
        positions = resampled(self.positions[None], self.grid, grid or self.grid)[0]
        x = self.mask_token + F.embedding(ids, positions)
        for block, memory in zip(self.blocks, self._memories(layers), strict=True):
            x = block(x, memory)
        return self.predict(self.norm(x))

    def _memories(self, layers: list[Tensor]) -> list[Tensor]:
        """What each block attends to, [N, T, encoder_width]."""
        if self.mix is None:
            return layers * len(self.blocks)
        stacked = torch.stack(layers)
        mixed = (self.mix.to(stacked.dtype) @ stacked.flatten(1)).unflatten(1, stacked.shape[1:])
        return [norm(memory) for norm, memory in zip(self.norms, mixed, strict=True)]
