"""Encoder with relative positions as plain layers on [N, tokens, C], for export with a dynamic N.

The packed pass fixes N when it is traced, so a graph of it would hold for one N.
"""

from typing import final

from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoder.relative import attention_bias, pairs


@final
class UnpackedEncoder(nn.Module):
    """Normalised images f32 [N, 3, H, W] -> class scores [N, classes] (features where the encoder has no classifier).

    The weights are shared with the encoder.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit
        related = pairs(vit, vit.patch_embed.grid_size, None, next(vit.parameters()).device)
        assert related is not None  # an encoder without relative positions is exported as it is
        self.register_buffer("related", related.detach(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        vit = self.vit
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
        for block in vit.blocks:
            x = x + block.ls1(self.attended(block.attn, block.norm1(x)))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        return vit.forward_head(vit.norm(x))

    def attended(self, attn: Attention, x: Tensor) -> Tensor:
        """Attend with relative positions, without dropout: [N, tokens, C] -> [N, tokens, C]."""
        q, k, v = attn.qkv(x).unflatten(2, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4).unbind()
        q, k = attn.q_norm(q), attn.k_norm(k)
        scores = q @ k.transpose(2, 3) * attn.scale + attention_bias(attn, q, self.related)
        return attn.proj(attn.norm((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))
