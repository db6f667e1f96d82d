"""Features of four blocks of a ViT, at a quarter, half, once and twice the stride of its patches.

levels = Pyramid(vit.embed_dim)(block_features(vit, images, (4, 6, 8, 12)))     # strides 4, 8, 16, 32 of patches of 16
"""

from collections.abc import Sequence
from typing import final

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.patches import grid_of
from models.encoder.vit import FullImages, encode_blocks
from pipeline.errors import InputError


def block_features(vit: VisionTransformer, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
    """Compute the outputs of some blocks, counted from 1, as pictures [N, C, h, w] of the patches, not normed.

    images  u8 [N, 3, H, W], or float, normalised already

    Nothing is masked, so that all is what the encoder computes of whole images (timm: forward_intermediates); prefix
    tokens are left out (BEiT's segmentation code).
    """
    grid = grid_of(images, vit.patch_embed.patch_size[0])
    found = encode_blocks(vit, FullImages(images, pooled=False), blocks)
    return [tokens[:, vit.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid) for tokens in found]


def four_blocks(depth: int, given: Sequence[int] = ()) -> tuple[int, ...]:
    """The blocks, counted from 1, that are decoded: those given, else 1/3, 1/2, 2/3 and all of the depth: 4, 6, 8, 12
    of 12 and 8, 12, 16, 24 of 24 (BEiT's configurations of ViT-B and L).

    Raises InputError unless there are four, ascending, the last block among them, as blocks behind it would learn
    nothing.
    """
    blocks = tuple(given) or tuple(max(1, round(depth * share)) for share in (1 / 3, 1 / 2, 2 / 3, 1))
    if len(blocks) != 4 or list(blocks) != sorted(blocks) or blocks[-1] != depth or blocks[0] < 1:
        came = " ".join(map(str, blocks))
        raise InputError(
            f"method.blocks is {came}, expected four ascending numbers, the last {depth}, the depth of the encoder"
        )
    return blocks


@final
class Pyramid(nn.Module):
    """Four pictures of one size to four of strides 1/4, 1/2, 1 and 2 of theirs (BEiT: fpn1 to fpn4).

    Two transposed convolutions of 2 x 2 with batch norm and GELU between them; one; nothing; the largest of 2 x 2.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, 2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, 2),
        )
        self.fpn2 = nn.ConvTranspose2d(width, width, 2, 2)
        self.fpn4 = nn.MaxPool2d(2, 2)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Rescale four pictures [N, C, h, w] -> [N, C, 4h, 4w], [N, C, 2h, 2w], [N, C, h, w], [N, C, h/2, w/2]."""
        first, second, third, fourth = features
        return [self.fpn1(first), self.fpn2(second), third, self.fpn4(fourth)]
