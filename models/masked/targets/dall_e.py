"""DALL-E's discrete encoder as a tokenizer (Ramesh et al. 2021): the codes of BEiT and of MAE's Table 1d, "dVAE token".

No weights come with this. OpenAI's `encoder.pkl` has to be turned into plain tensors once, where its own package is
installed; `method.reconstruct.target_file` then names that file:

    torch.save(torch.load("encoder.pkl", weights_only=False).state_dict(), "dall_e.pt")   # a pickle: it runs code

The geometry: cells of 8 pixels, so that 14 x 14 patches need the picture at 112 x 112 (BEiT: second_size); 8,192 codes;
pixels x in 0..1 enter as 0.8 x + 0.1; f32 throughout. It was not yet run with OpenAI's weights.
"""

import re
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.masked.targets.tokenizer import Tokenizer
from pipeline.errors import InputError

FIRST = "blocks.input.w"
WIDTH, GROUPS, BLOCKS, CODES = 256, 4, 2, 8192


@final
class DallE(Tokenizer):
    """The likeliest code of each cell. Without DALL-E's decoder, codes have no picture.

    encoder  any module from f32 [N, 3, H, W], pixels in 0.1..0.9, to scores [N, codes, H / 8, W / 8]
    """

    stride = 8

    def __init__(self, encoder: nn.Module, codes: int = CODES) -> None:
        super().__init__()
        self.codes, self.encoder = codes, encoder.requires_grad_(False).eval()

    def encode(self, images: Tensor) -> Tensor:
        """Codes i64 [N, cells], raster order, of pictures f32 [N, 3, H, W], 0..1."""
        return self.encoder(0.8 * images + 0.1).argmax(1).flatten(1)

    def decode(self, codes: Tensor, grid: tuple[int, int]) -> None:
        """Return None, as there is no decoder."""
        return None


@final
class Residual(nn.Module):
    """Four convolutions, a quarter as wide inside, beside a skip connection; ReLU first, scaled by 1 / depth²."""

    def __init__(self, before: int, width: int, gain: float) -> None:
        super().__init__()
        inner = width // 4
        self.gain = gain
        self.straight = nn.Conv2d(before, width, 1) if before != width else nn.Identity()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, side, padding=side // 2)
            for a, b, side in ((before, inner, 3), (inner, inner, 3), (inner, inner, 3), (inner, width, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for convolution in self.convolutions:
            y = convolution(y.relu())
        return self.straight(x) + self.gain * y


@final
class DallEEncoder(nn.Module):
    """7 x 7 convolution, four groups of residual blocks with halvings between them, 1 x 1 convolution to the codes."""

    def __init__(self, width: int = WIDTH, codes: int = CODES) -> None:
        super().__init__()
        gain = 1 / (GROUPS * BLOCKS) ** 2
        self.input = nn.Conv2d(3, width, 7, padding=3)
        self.groups, before = nn.ModuleList(), width
        for group in range(GROUPS):
            wide = width << group
            blocks = [Residual(before if block == 0 else wide, wide, gain) for block in range(BLOCKS)]
            self.groups.append(nn.Sequential(*blocks))
            before = wide
        self.output = nn.Conv2d(before, codes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        for number, group in enumerate(self.groups):
            x = group(x if number == 0 else F.max_pool2d(x, 2))
        return self.output(x.relu())


def dall_e(weights: dict[str, Tensor], file: str) -> DallE:
    """Build the tokenizer of OpenAI's weights, by OpenAI's names. Raises InputError if some are missing."""
    renamed = {_ours(name): tensor.float() for name, tensor in weights.items() if torch.is_tensor(tensor)}
    try:
        encoder = DallEEncoder(len(weights[FIRST]), len(weights["blocks.output.conv.w"]))
        encoder.load_state_dict(renamed)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{file} holds only some of the weights of DALL-E's encoder; save its state_dict") from error
    return DallE(encoder, encoder.output.out_channels)


def _ours(name: str) -> str:
    """Rename blocks.group_2.block_1.res_path.conv_3.w to groups.1.0.convolutions.2.weight, for example."""
    name = re.sub(r"group_(\d)\.block_(\d)", lambda found: f"groups.{int(found[1]) - 1}.{int(found[2]) - 1}", name)
    name = re.sub(r"res_path\.conv_(\d)", lambda found: f"convolutions.{int(found[1]) - 1}", name)
    name = name.removeprefix("blocks.").replace("id_path", "straight").replace("output.conv", "output")
    return re.sub(r"\.w$", ".weight", re.sub(r"\.b$", ".bias", name))
