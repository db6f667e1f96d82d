"""Count the FLOPs of a Semiformer in closed form. A multiply-add is 2 FLOPs.

flops = semiformer_flops(model, samples=64)
"""

from math import prod

from torch import nn

from models.bench.flops import block_flops
from models.semiformer.blocks import ConvBlock
from models.semiformer.couple import PatchTokens
from models.semiformer.model import Semiformer

LayerCells = tuple[nn.Module, int]
"""A convolution or linear layer, and how many places of an image it runs on."""


def semiformer_flops(model: Semiformer, samples: int, *, learns: bool = True) -> int:
    """Count both streams and both heads, on images of the model's own size; thrice the forward pass where it learns.

    Maps are pooled before FCU-down projects them: pooled² times less than in Conformer's order, for the same result.
    """
    patches = prod(model.patch_embed.grid_size)
    layers, cells = [(head, 1) for head in model.head.values()], PatchTokens.CELLS**2
    layers += _block(model.first, patches * cells, patches * cells)
    for stage in model.stages:
        before, inside = patches * cells, patches * stage.down.pool**2
        after = inside // prod(stage.fusion.mix[0].stride)
        layers += [*_block(stage.conv, before, inside), *_block(stage.fusion, inside, after)]
        layers += [(stage.down.project, patches), (stage.up.project, patches)]
        cells = stage.down.pool**2
    return samples * (_stream(model, patches, learns=learns) + _sum(layers) * _times(learns))


def stream_flops(model: Semiformer, samples: int, visible: int, *, learns: bool = True) -> int:
    """Count the transformer's stream on `visible` patches of each image, and the stem on all (`visible_tokens`)."""
    return samples * _stream(model, visible, learns=learns)


def _stream(model: Semiformer, patches: int, *, learns: bool) -> int:
    """Count, for one image, the stem, the embedding of so many patches, and the blocks on them and the class token."""
    embed, stem = model.patch_embed, model.stem.conv
    pixels = prod(embed.grid_size) * prod(embed.patch_size) // prod(stem.stride)
    width, mlp = model.embed_dim, model.blocks[0].mlp.fc1.out_features
    blocks = len(model.blocks) * block_flops(patches + 1, patches + 1, width, mlp)
    # the gradient of an image is not computed, so the stem costs twice, not thrice
    return _sum([(stem, pixels)]) * (2 if learns else 1) + (_sum([(embed.proj, patches)]) + blocks) * _times(learns)


def _block(block: ConvBlock, before: int, after: int) -> list[LayerCells]:
    """List a block's layers; the map has `before` cells before the block's stride and `after` behind it."""
    own = [(block.reduce[0], before), (block.mix[0], after), (block.expand[0], after)]
    return own if isinstance(block.shortcut, nn.Identity) else [*own, (block.shortcut[0], after)]


def _sum(layers: list[LayerCells]) -> int:
    return sum(2 * layer.weight.numel() * places for layer, places in layers)


def _times(learns: bool) -> int:
    return 3 if learns else 1
