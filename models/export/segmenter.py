"""A run of segmentation as plain layers on [N, 3, H, W], for export with a dynamic N.

The packed pass fixes N when it is traced; this one is timm's forward, or with relative positions UnpackedEncoder's.
"""

from typing import final

import torch
from torch import Tensor, nn

from models.dense.upernet import resized
from models.encoder.lora import merged
from models.encoder.vit import normalisation_of
from models.export.export_format import relative
from models.export.unpacked_encoder import UnpackedEncoder
from models.methods.segment import Segment
from pipeline.errors import InputError


@final
class Segmenter(nn.Module):
    """Windows u8 [N, 3, H, W] of the size that was trained on -> scores of each pixel f32 [N, classes, H, W].

    Raises InputError for a rotary encoder, whose forward has no plain layers here.
    """

    def __init__(self, method: Segment) -> None:
        super().__init__()
        vit = merged(method.encoder)
        if getattr(vit, "rope", None) is not None:
            raise InputError("ONNX of segmentation holds plain ViTs, this encoder is rotary; use --to safetensors")
        self.vit, self.blocks = vit, method.blocks
        self.attended = UnpackedEncoder(vit) if relative(vit) else None
        self.pyramid, self.decoder = method.pyramid, method.decoder
        for name in ("mean", "std"):
            values = torch.tensor(getattr(normalisation_of(method.encoder), name))
            self.register_buffer(name, values.view(1, 3, 1, 1), persistent=False)

    def forward(self, windows: Tensor) -> Tensor:
        vit = self.vit
        x = vit.patch_embed((windows.float() / 255 - self.mean) / self.std)
        x = vit.norm_pre(vit._pos_embed(x))
        found = []
        for number, block in enumerate(vit.blocks, 1):
            if self.attended is None:
                x = block(x)
            else:
                x = x + block.ls1(self.attended.attended(block.attn, block.norm1(x)))
                x = x + block.ls2(block.mlp(block.norm2(x)))
            tokens = x[:, vit.num_prefix_tokens :].transpose(1, 2)
            found += [tokens.unflatten(2, tuple(vit.patch_embed.grid_size))] * self.blocks.count(number)
        scores = self.decoder(self.pyramid(found))
        return resized(scores, (windows.shape[2], windows.shape[3]))
