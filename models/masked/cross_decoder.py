"""CrossMAE's decoder: each hidden patch asks the encoder's tokens on its own, and no other one (Fu et al. 2024)."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from models.encoder.packed import compiled
from models.encoder.positions import mae_init, resampled, sincos_2d
from pipeline.errors import InputError


class CrossBlock(nn.Module):
    """Pre-norm cross-attention, then an MLP; queries of `width`, keys and values straight from `memory_width`.

    Every query is on its own: asking for fewer changes none of the others' answers.
    """

    compiler: str | Callable | None = None  # see models.distributed.compile

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
        """float [N, M, width] and memory [N, T, memory_width] -> [N, M, width]."""
        run = _answers if self.compiler is None else compiled(_answers, self.compiler)
        return run(self, x, memory)


def _answers(block: CrossBlock, x: Tensor, memory: Tensor) -> Tensor:
    q, k, v = (
        each.unflatten(2, (block.heads, -1)).transpose(1, 2)
        for each in (block.queries(block.norm1(x)), *block.keys_values(memory).chunk(2, -1))
    )
    x = x + block.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x))


class CrossDecoder(nn.Module):
    """Mask tokens with positions, `depth` blocks of cross-attention, norm, linear to `predicts`.

    encoder_width  width of the tokens that are asked
    grid           patches down and across; positions of other grids are resampled from it
    maps           layers of the encoder that are asked: 1, its output; more, and each block reads a learned mix of all
                   of them, normed ("inter-block attention"). The mix begins normal with variance 1 / maps
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
        """Predictions [N, M, predicts] for the patches `ids` (i64 [N, M], any of them), in their order.

        layers  `maps` of float [N, T, encoder_width]: the tokens of what was seen, positions in them already
        grid    patches of the images down and across; the decoder's own when absent
        """
        positions = resampled(self.positions[None], self.grid, grid or self.grid)[0]
        x = self.mask_token + positions[ids]
        for block, memory in zip(self.blocks, self._memories(layers), strict=True):
            x = block(x, memory)
        return self.predict(self.norm(x))

    def _memories(self, layers: list[Tensor]) -> list[Tensor]:
        """What each block asks, [N, T, encoder_width]."""
        if self.mix is None:
            return layers * len(self.blocks)
        stacked = torch.stack(layers)
        mixed = (self.mix.to(stacked.dtype) @ stacked.flatten(1)).unflatten(1, stacked.shape[1:])
        return [norm(memory) for norm, memory in zip(self.norms, mixed, strict=True)]
