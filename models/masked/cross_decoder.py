"""CrossMAE's decoder: each hidden patch attends to the encoder's tokens alone (Fu et al. 2024)."""

from collections.abc import Callable
from functools import partial
from typing import final

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from models.encoder.packed import compiled
from models.encoder.positions import mae_init, resampled, sincos_2d
from pipeline.errors import InputError


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
        x = self.mask_token + positions[ids]
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
