"""Semiformer: both streams, stage by stage; and the transformer's stream alone on visible patches.

Written from Weng et al. (2022) and from Conformer (Peng et al. 2021), which it extends; no line of their code.
"""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder.layout import Layout
from models.encoder.packed import PackedBlock
from models.encoder.patches import IMAGENET, Normalisation, grid_of, normalised
from models.encoder.positions import resampled
from models.encoder.vit import evaluating
from models.semiformer.blocks import ConvBlock, Stem
from models.semiformer.couple import Down, PatchTokens, Up, blanked, layer_norm

STEM_CHANNELS = 64


@dataclass(frozen=True)
class Shape:
    """A Semiformer's size; the defaults are the small one's, of 41,670,288 parameters with 1,000 classes.

    channels  of the first third of the convolutional stream; the second has twice, the last four times as many
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    channels: int = 256

    def thirds(self) -> list[int]:
        """Return, for each stage, whether it is in the first (0), second (1) or last (2) third of the depth."""
        return [3 * stage // self.depth for stage in range(self.depth)]


@final
class Stage(nn.Module):
    """The convolutional half of a coupled stage, and its two couplings.

    cells  of the map that a token covers, along each side
    """

    def __init__(self, channels_in: int, channels: int, width: int, cells: int, stride: int, last_stride: int) -> None:
        super().__init__()
        self.conv = ConvBlock(channels_in, channels, stride)
        self.down = Down(channels, width, cells)
        self.up = Up(width, channels, cells)
        self.fusion = ConvBlock(channels, channels, last_stride)


@final
class Semiformer(nn.Module):
    """Two streams on images u8 [N, 3, H, W] (or float, normalised), each with a head.

    conv, transformer = model(images)   # logits [N, classes] each

    In train mode batch norm makes an image's output depend on the others of the batch, so none can be left out.

    double_class_token  each coupling adds the class token to itself, as in Semiformer's and Conformer's code: it has no
                        cell of the map, and is added where a cell's token would be. The published numbers have it
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        shape: Shape,
        *,
        patch: int,
        grid: tuple[int, int],
        classes: int,
        drop_path: float = 0.0,
        double_class_token: bool = True,
        normalisation: Normalisation = IMAGENET,
    ) -> None:
        super().__init__()
        self.embed_dim, self.normalisation, self.double_class_token = shape.width, normalisation, double_class_token
        self.num_classes = classes
        self.stem = Stem(STEM_CHANNELS, patch)
        self.patch_embed = PatchTokens(STEM_CHANNELS, shape.width, patch, grid)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.register_parameter("pos_embed", None)
        rates = [drop_path * number / max(shape.depth - 1, 1) for number in range(shape.depth)]
        self.blocks = nn.ModuleList(
            PackedBlock(shape.width, shape.heads, qkv_bias=True, norm_layer=layer_norm, drop_path=rate)
            for rate in rates
        )
        self.first = ConvBlock(STEM_CHANNELS, shape.channels)
        self.stages = nn.ModuleList(_stages(shape))
        self.norm = layer_norm(shape.width)
        heads = {"conv": shape.channels << shape.thirds()[-1], "transformer": shape.width}
        self.head = nn.ModuleDict({name: nn.Linear(features, classes) for name, features in heads.items()})
        self.apply(_initial)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        # gradients are channels-last, as images are; DDP would copy them for weights that are not
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits [N, classes] of the convolutional head, and of the transformer's."""
        grid = grid_of(images, self.patch_embed.patch_size[0])
        stem = self.stem(self.pixels(images))
        tokens = _through(self.blocks[0], self._tokens(stem, grid))
        x = self.first(stem)
        for stage, block in zip(self.stages, self.blocks[1:], strict=True):
            x = stage.conv(x)
            tokens = _through(block, self._coupled(tokens, stage.down(x)))
            x = stage.fusion(x + stage.up(tokens[:, 1:], grid))
        return self.head["conv"](x.mean((2, 3))), self.head["transformer"](self.norm(tokens[:, 0]))

    def visible_tokens(self, images: Tensor, visible: Tensor) -> Tensor:
        """Run the transformer's stream alone on the patches visible i64 [N, K]: float [N, 1 + K, C], final-normed.

        Hidden pixels are set to 0 before the stem, whose batch norm uses the running statistics, as those of blanked
        images would differ. So the output depends neither on hidden pixels nor on other images. No drop-path (MAE).
        """
        patch = self.patch_embed.patch_size[0]
        stem = self.stem(blanked(self.pixels(images), visible, patch), frozen=True)
        tokens = self._tokens(stem, grid_of(images, patch), visible)
        for block in self.blocks:
            tokens = _through(block, tokens, drop_path=False)
        return self.norm(tokens)

    def pixels(self, images: Tensor) -> Tensor:
        """Normalise u8 [N, 3, H, W] to float; floats are taken as normalised already."""
        pixels = normalised(images.permute(0, 2, 3, 1), self.stem.conv.weight.dtype, self.normalisation)
        return pixels.permute(0, 3, 1, 2)  # channels-last in memory, as before

    def _tokens(self, stem: Tensor, grid: tuple[int, int], visible: Tensor | None = None) -> Tensor:
        tokens, first = self.patch_embed(stem, visible), self.cls_token
        if self.pos_embed is not None:
            positions = resampled(self.pos_embed, self.patch_embed.grid_size, grid, 1)
            first, patches = first + positions[:, :1], positions[0, 1:]
            tokens = tokens + (patches if visible is None else F.embedding(visible, patches))
        return torch.cat([first.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens], 1)

    def _coupled(self, tokens: Tensor, from_map: Tensor) -> Tensor:
        """Add FCU-down's output to the patch tokens."""
        first = 2 * tokens[:, :1] if self.double_class_token else tokens[:, :1]
        return torch.cat([first, tokens[:, 1:] + from_map], 1)


@torch.no_grad()
def eval_logits(model: Semiformer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute both heads' logits in eval mode and without gradient, as teachers and evaluators do."""
    with evaluating(model):
        return model(images)


def _through(block: PackedBlock, tokens: Tensor, *, drop_path: bool = True) -> Tensor:
    if torch.compiler.is_exporting():  # a layout would fix the number of images in the graph
        return block(tokens)
    layout = Layout(((tokens.shape[0], tokens.shape[1]),), (drop_path,))
    return block(tokens.flatten(0, 1), layout=layout).unflatten(0, tokens.shape[:2])


def _stages(shape: Shape) -> list[Stage]:
    """Make stages 2 to depth: where a third begins the map is halved and its channels double; the last fusion halves
    it, too."""
    thirds, stages = shape.thirds(), []
    for number, third in enumerate(thirds[1:], 1):
        before = thirds[number - 1]
        channels = shape.channels << before, shape.channels << third
        cells = PatchTokens.CELLS >> third
        last = number == shape.depth - 1
        stages.append(Stage(*channels, shape.width, cells, 2 ** (third - before), 2 if last else 1))
    return stages


def _initial(module: nn.Module) -> None:
    """Give a module initial weights: timm's for linear layers, He's for convolutions, as in Conformer; biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
