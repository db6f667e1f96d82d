"""The whole model: its size, who hears from whom, what a mask hides, and a plain rewriting of its forward."""

import pytest
import torch
from torch import nn

from models.config.resolve import resolve
from models.encoder.positions import sincos_2d
from models.factory import method_class
from models.semiformer.model import Semiformer, Shape, eval_logits

DOUBLE = torch.float64
TINY = Shape(width=16, depth=6, heads=2, channels=8)


def build(shape: Shape = TINY, **options) -> Semiformer:
    torch.manual_seed(0)
    model = Semiformer(shape, patch=4, grid=(4, 4), classes=5, **options)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    return model.to(DOUBLE)


def images(n: int = 3, side: int = 16) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def parameters(*modules: nn.Module | nn.Parameter) -> int:
    return sum(m.numel() if isinstance(m, nn.Parameter) else parameters(*m.parameters()) for m in modules)


def test_the_small_model_has_the_authors_41_670_288_parameters_and_its_three_parts_theirs():
    with torch.device("meta"):
        small = Semiformer(Shape(), patch=16, grid=(14, 14), classes=1000)
    transformer = parameters(small.patch_embed, small.cls_token, small.blocks, small.norm, small.head["transformer"])
    couplings = parameters(*(part for stage in small.stages for part in (stage.down, stage.up)))
    convolutions = (part for stage in small.stages for part in (stage.conv, stage.fusion))
    conv = parameters(small.stem, small.first, *convolutions, small.head["conv"])
    assert [round(part / 1e6, 2) for part in (transformer, couplings, conv)] == [22.07, 5.34, 14.26]
    assert parameters(small) == transformer + couplings + conv == 41_670_288


def test_the_small_models_maps_are_56_28_14_and_at_last_7_cells_wide():
    with torch.device("meta"):
        small = Semiformer(Shape(), patch=16, grid=(14, 14), classes=1000).eval()
        shapes = []
        for part in (small.stem, small.first, *(stage.fusion for stage in small.stages)):
            part.register_forward_hook(lambda _, __, x: shapes.append((x.shape[1], *x.shape[2:])))
        small(torch.empty(1, 3, 224, 224))
    assert shapes == [(64, 56, 56), *[(256, 56, 56)] * 4, *[(512, 28, 28)] * 4, *[(1024, 14, 14)] * 3, (1024, 7, 7)]


def plainly(model: Semiformer, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The forward pass once more: timm's own blocks, and the class token where a cell's token would be."""
    stem = model.stem(x)
    tokens = model.patch_embed.proj(stem).flatten(2).transpose(1, 2)
    tokens = model.blocks[0](torch.cat([model.cls_token.expand(len(x), -1, -1), tokens], 1))
    x = model.first(stem)
    for stage, block in zip(model.stages, model.blocks[1:], strict=True):
        x = stage.conv(x)
        first = tokens[:, :1] if model.double_class_token else torch.zeros_like(tokens[:, :1])
        tokens = block(tokens + torch.cat([first, stage.down(x)], 1))
        cells = stage.up.norm(stage.up.project(tokens[:, 1:].transpose(1, 2).reshape(len(x), -1, 4, 4))).clamp_min(0)
        cells = cells.repeat_interleave(stage.up.scale, 2).repeat_interleave(stage.up.scale, 3)
        x = stage.fusion(x + cells)
    return model.head["conv"](x.flatten(2).mean(2)), model.head["transformer"](model.norm(tokens)[:, 0])


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_the_forward_pass_is_the_one_of_plain_blocks(train, double):
    model = build(double_class_token=double).train(train)
    for ours, theirs in zip(model(images()), plainly(model, images()), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_without_their_couplings_neither_stream_hears_from_the_other():
    model = build().eval()
    with torch.no_grad():
        for stage in model.stages:
            for tensor in (stage.up.norm.weight, stage.up.norm.bias, stage.down.norm.weight, stage.down.norm.bias):
                tensor.zero_()
    conv, transformer = model(images())
    heads, trunk = model.head, [stage.fusion for stage in model.stages]
    for logits, own, other in ((conv, trunk, model.blocks), (transformer, model.blocks, trunk)):
        weights = [next(part.parameters()) for part in (own[0], other[0])]
        mine, others = torch.autograd.grad(logits.square().sum(), weights, retain_graph=True, allow_unused=True)
        assert mine.abs().sum() > 0
        assert others is None or others.abs().max() == 0
    assert heads["conv"].in_features == 4 * TINY.channels


def test_a_gradient_reaches_every_parameter():
    model = build().train()
    conv, transformer = model(images())
    (conv.square().sum() + transformer.square().sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_a_batch_of_bytes_is_normalised_as_by_hand_and_other_sizes_of_image_pass():
    model = build().eval()
    bytes_ = torch.randint(0, 256, (2, 8, 12, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    scale = model.normalisation
    mean, std = (torch.tensor(values, dtype=DOUBLE)[:, None, None] for values in (scale.mean, scale.std))
    for a, b in zip(model(bytes_), model((bytes_ / 255.0 - mean) / std), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def visible(n: int = 3) -> torch.Tensor:
    return torch.rand(n, 16, generator=torch.Generator().manual_seed(2)).argsort(1)[:, :4].sort(1).values


@pytest.mark.parametrize("train", [True, False])
def test_hidden_pixels_and_other_images_have_no_say_in_visible_tokens(train):
    model = build(drop_path=0.5).train(train)
    x, ids = images(), visible()
    tokens = model.visible_tokens(x, ids)
    shown = torch.zeros(3, 16, dtype=torch.bool).scatter(1, ids, True).view(3, 1, 4, 1, 4, 1).expand(3, 3, 4, 4, 4, 4)
    other = torch.where(shown.flatten(4, 5).flatten(2, 3), x, float("nan"))
    assert torch.equal(model.visible_tokens(other, ids), tokens)
    assert torch.allclose(model.visible_tokens(x[1:2], ids[1:2]), tokens[1:2], atol=1e-12)
    x[0, :, 4 * (ids[0, 0] // 4), 4 * (ids[0, 0] % 4)] += 1  # and a visible pixel has one
    assert not torch.allclose(model.visible_tokens(x, ids), tokens)


def test_visible_tokens_are_the_transformers_stream_alone():
    model = build().train()
    tokens = model.visible_tokens(images(), visible())
    assert tokens.shape == (3, 5, TINY.width)
    tokens.square().sum().backward()
    used = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert used == {"stem", "patch_embed", "cls_token", "blocks", "norm"}


def test_all_patches_visible_are_what_the_transformer_makes_of_an_uncut_image():
    model = build().eval()
    x = images()
    tokens = model.patch_embed.proj(model.stem(x)).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.cls_token.expand(3, -1, -1), tokens], 1)
    for block in model.blocks:
        tokens = block(tokens)
    every = torch.arange(16).expand(3, -1)
    assert torch.allclose(model.visible_tokens(x, every), model.norm(tokens), atol=1e-10)


def test_positions_are_added_to_the_patches_by_id():
    model = build().eval()
    table = torch.cat([torch.zeros(1, 16), sincos_2d(16, (4, 4)).float()])[None].to(DOUBLE)
    without = model._tokens(model.stem(images()), (4, 4))
    model.pos_embed = nn.Parameter(table)
    assert torch.allclose(model._tokens(model.stem(images()), (4, 4)), without + table, atol=1e-12)
    some = model._tokens(model.stem(images()), (4, 4), visible())
    assert torch.allclose(some[1, 1:], (without + table)[1, 1:][visible()[1]], atol=1e-12)


def test_looking_leaves_running_statistics_and_modes_alone():
    model = build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    conv, _ = eval_logits(model, images())
    assert not conv.requires_grad
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model(images())
    assert not all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_name_of_the_small_model_builds_it():
    recipe = resolve("semiformer:in1k_10pct", [])
    with torch.device("meta"):
        method = method_class(recipe)(recipe, 1000)
    assert sum(p.numel() for p in method.encoder.parameters()) == 41_670_288
