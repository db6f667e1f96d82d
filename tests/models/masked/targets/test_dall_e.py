"""DALL-E's geometry: published names load into ours, and the network is the published one, written out."""

import pytest
import torch
import torch.nn.functional as F

from models.encoder.patches import IMAGENET
from models.masked.targets.build import build_target
from models.masked.targets.dall_e import DallE, DallEEncoder, dall_e
from pipeline.errors import InputError

WIDTH, CODES = 8, 20


def published() -> dict[str, torch.Tensor]:
    """Weights under the names of openai/DALL-E's encoder, in small."""
    g, made = torch.Generator().manual_seed(0), {}

    def convolution(name: str, before: int, width: int, side: int) -> None:
        made[f"blocks.{name}.w"] = torch.randn(width, before, side, side, generator=g) / (before * side * side) ** 0.5
        made[f"blocks.{name}.b"] = 0.1 * torch.randn(width, generator=g)

    convolution("input", 3, WIDTH, 7)
    for group, (before, width) in enumerate(((8, 8), (8, 16), (16, 32), (32, 64)), 1):
        for block in (1, 2):
            name, into = f"group_{group}.block_{block}", before if block == 1 else width
            if into != width:
                convolution(f"{name}.id_path", into, width, 1)
            sides = (into, width // 4, 3), (width // 4, width // 4, 3), (width // 4, width // 4, 3)
            for number, (a, b, side) in enumerate((*sides, (width // 4, width, 1)), 1):
                convolution(f"{name}.res_path.conv_{number}", a, b, side)
    convolution("output.conv", 64, CODES, 1)
    return made


def scores(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def through(name: str, x: torch.Tensor) -> torch.Tensor:
        w = weights[f"blocks.{name}.w"]
        return F.conv2d(x, w, weights[f"blocks.{name}.b"], padding=(w.shape[-1] - 1) // 2)

    x = through("input", x)
    for group in (1, 2, 3, 4):
        for block in (1, 2):
            name, y = f"group_{group}.block_{block}", x
            for number in (1, 2, 3, 4):
                y = through(f"{name}.res_path.conv_{number}", F.relu(y))
            straight = through(f"{name}.id_path", x) if f"blocks.{name}.id_path.w" in weights else x
            x = straight + y / 64  # 1 / 8², for 8 blocks
        x = x if group == 4 else F.max_pool2d(x, 2)
    return through("output.conv", F.relu(x))


def test_published_weights_give_the_published_codes():
    weights, x = published(), torch.rand(2, 3, 32, 32)
    tokenizer = dall_e(weights, "file")
    torch.testing.assert_close(tokenizer.encoder(x), scores(weights, x))
    codes = tokenizer.encode(x)
    assert codes.shape == (2, 16)
    assert torch.equal(codes, scores(weights, 0.8 * x + 0.1).argmax(1).flatten(1))
    assert codes.unique().numel() > 1


def test_its_size_is_dall_es():
    with torch.device("meta"):
        encoder = DallEEncoder()
    assert encoder.output.weight.shape == (8192, 2048, 1, 1)
    # written out from the widths 256, 512, 1024, 2048: 9 a b weights a 3 x 3 convolution, one bias a channel
    total = 3 * 49 * 256 + 256 + 2048 * 8192 + 8192
    for before, width in ((256, 256), (256, 512), (512, 1024), (1024, 2048)):
        for into in (before, width):
            inner = width // 4
            total += 9 * into * inner + 2 * 9 * inner * inner + inner * width + 3 * inner + width
            total += 0 if into == width else into * width + width
    assert sum(parameter.numel() for parameter in encoder.parameters()) == total


def test_a_file_of_weights_is_a_target_of_14_x_14_tokens_from_112_pixels(tmp_path):
    torch.save(published(), tmp_path / "dall_e.pt")
    made = build_target("tokens", str(tmp_path / "dall_e.pt"), 16, IMAGENET)
    assert made.width == CODES
    assert not any(parameter.requires_grad for parameter in made.parameters())
    sizes = []
    made.tokenizer.encoder.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape))
    x, ids = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8), torch.tensor([[0, 195]])
    assert made.loss(torch.zeros(1, 2, CODES), x, ids).item() == pytest.approx(torch.tensor(CODES).log().item())
    assert sizes == [(1, 3, 112, 112)]
    assert made.to_pixels(torch.zeros(1, 2, CODES), x, ids) is None


def test_any_encoder_of_this_geometry_will_do():
    tokenizer = DallE(torch.nn.Conv2d(3, 5, 8, 8), codes=5)
    assert tokenizer(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), (2, 3)).shape == (2, 6)


def test_weights_that_are_not_all_there_are_refused_in_a_line():
    weights = published()
    del weights["blocks.group_2.block_1.id_path.w"]
    with pytest.raises(InputError, match=r"half.pt holds only some of the weights of DALL-E's encoder"):
        dall_e(weights, "half.pt")
