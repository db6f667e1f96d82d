"""Images of another size than the networks were built for: equal to networks of that size with resampled positions."""

import copy

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from models.bench import baselines
from models.bench.flops import GroupCost, count, decoder_flops, encoder_flops
from models.distributed.compile import compile_blocks
from models.encoder.packed import as_packed
from models.encoder.positions import resampled
from models.encoder.vit import (
    FullImages,
    MaskedImages,
    SelectedImages,
    Size,
    VisiblePatches,
    build_encoder,
    classify,
    encode,
    eval_logits,
)
from models.masked.mae import Decoder, MAEBranch, predicted_ids
from models.masked.settings import Reconstruct

DOUBLE = torch.float64
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 5}
VARIANTS = {
    "class token": {},
    "registers": {"reg_tokens": 2},
    "registers without positions": {"reg_tokens": 2, "no_embed_class": True},
    "no class token": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "no positions": {"pos_embed": "none"},
}


def pair(pixels: int, **options) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A packed ViT for 32 pixels, and timm's for `pixels` with the same weights but for its positions."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, **SMALL | options).to(DOUBLE)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    plain = timm.create_model("vit_tiny_patch16_224", img_size=pixels, **SMALL | options).to(DOUBLE)
    weights = vit.state_dict()
    if vit.pos_embed is not None:
        before = 0 if vit.no_embed_class else vit.num_prefix_tokens
        grid = [pixels // 8, pixels // 8]
        weights["pos_embed"] = resample_abs_pos_embed(vit.pos_embed.detach(), grid, num_prefix_tokens=before)
    plain.load_state_dict(weights)
    return as_packed(vit), plain


def images(pixels: int, samples: int = 3) -> torch.Tensor:
    return torch.randn(samples, 3, pixels, pixels, dtype=DOUBLE)


def some_visible(patches: int, seen: int, samples: int = 3) -> torch.Tensor:
    return torch.rand(samples, patches).argsort(1)[:, :seen].sort(1).values


@pytest.mark.parametrize("pixels", [16, 24, 40])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_group_is_a_network_of_its_size_with_resampled_positions(pixels, name):
    vit, plain = pair(pixels, **VARIANTS[name])
    x, patches = images(pixels), (pixels // 8) ** 2
    visible, rows = some_visible(patches, 2), torch.tensor([2, 0])
    whole, chosen, partly = encode(
        vit, [FullImages(x, pooled=False), SelectedImages(x, rows, pooled=False), VisiblePatches(x, visible)]
    )
    expected = plain.forward_features(x)
    torch.testing.assert_close(whole, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(chosen, expected[rows], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(eval_logits(vit, x), plain(x), rtol=1e-11, atol=1e-11)
    (covered,) = encode(
        vit, [MaskedImages(x, torch.zeros(3, patches, dtype=torch.bool), torch.zeros(32, dtype=DOUBLE))]
    )
    torch.testing.assert_close(covered, expected, rtol=1e-11, atol=1e-11)
    if plain.pos_embed is not None:
        expected = baselines.plain_visible_tokens(plain, x, visible)
        torch.testing.assert_close(partly, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("everything", [False, True])
def test_the_decoder_is_one_of_its_grid_with_resampled_positions(everything):
    torch.manual_seed(0)
    decoder, small = (Decoder(32, grid, 8, width=24, depth=2, heads=3).to(DOUBLE) for grid in ((4, 4), (2, 3)))
    small.load_state_dict(decoder.state_dict())
    small.positions = resample_abs_pos_embed(decoder.positions[None], [2, 3], [4, 4], num_prefix_tokens=0)[0]
    tokens, visible = torch.randn(3, 3, 32, dtype=DOUBLE), some_visible(6, 2)
    ids = predicted_ids(visible, 6, everything=everything)
    expected = baselines.plain_decode(small, tokens, visible).gather(1, ids[..., None].expand(-1, -1, 192))
    torch.testing.assert_close(decoder(tokens, visible, ids, (2, 3)), expected, rtol=1e-11, atol=1e-11)
    whole = some_visible(16, 4), torch.randn(3, 5, 32, dtype=DOUBLE)
    ids = predicted_ids(whole[0], 16)
    assert torch.equal(decoder(whole[1], whole[0], ids, (4, 4)), decoder(whole[1], whole[0], ids))


@pytest.mark.parametrize("normalise", [False, True])
def test_the_pixel_loss_and_its_gradients_are_those_of_networks_of_that_size(normalise):
    vit, plain = pair(24)
    branch = MAEBranch(vit, Reconstruct(1, 24, 3, target="norm_pix" if normalise else "pixel")).to(DOUBLE)
    small = Decoder(32, (3, 3), 8, width=24, depth=1, heads=3).to(DOUBLE)
    small.load_state_dict(branch.decoder.state_dict())
    small.positions = resample_abs_pos_embed(branch.decoder.positions[None], [3, 3], num_prefix_tokens=0)[0]
    x, visible = images(24), some_visible(9, 2)
    (partly,) = encode(vit, [VisiblePatches(x, visible)])
    loss = branch(partly, x, visible)
    expected = baselines.plain_mae(plain, small, x, visible, normalise=normalise)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-11)
    loss.backward(), expected.backward()
    ours = dict(vit.named_parameters()) | dict(branch.decoder.named_parameters("decoder"))
    theirs = dict(plain.named_parameters()) | dict(small.named_parameters("decoder"))
    for name, parameter in theirs.items():
        if name == "pos_embed" or parameter.grad is None:
            continue
        torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(vit.pos_embed.grad, spread_back(plain.pos_embed.grad), rtol=1e-5, atol=1e-7)


def spread_back(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient of a 4 x 4 table, from that of its 3 x 3 resampling: resampling is linear, so by its transpose."""
    one_hot = torch.eye(16).unsqueeze(0)  # each position a channel of its own
    matrix = resample_abs_pos_embed(one_hot, [3, 3], num_prefix_tokens=0)[0].to(gradient)  # [9, 16]
    return torch.cat([gradient[:, :1], (matrix.T @ gradient[0, 1:])[None]], 1)


def test_the_same_grid_gives_the_table_itself_and_resampling_keeps_the_picture():
    """A ramp from left to right stays a ramp: its middle columns to a twentieth of a patch, its ends within it."""
    table = torch.arange(14.0).repeat(14, 1).reshape(1, 196, 1)
    assert resampled(table, (14, 14), (14, 14)) is table
    small = resampled(table, (14, 14), (10, 10)).reshape(10, 10)
    middles = (torch.arange(10) + 0.5) * 1.4 - 0.5  # where the middles of the ten columns lie among the fourteen
    torch.testing.assert_close(small[:, 2:-2], middles[2:-2].expand(10, -1), rtol=0, atol=5e-2)
    assert (small.diff(dim=1) > 0).all()
    assert small.min() >= 0
    assert small.max() <= 13


@pytest.mark.parametrize("pixels", [96, 160])
def test_a_smaller_image_costs_the_closed_form_of_its_patches(pixels):
    with torch.device("meta"):
        vit = build_encoder("vit_small_patch16_224", image_size=224, patch=16, classes=0)
        branch = MAEBranch(vit, Reconstruct())
        x = torch.empty(2, 3, pixels, pixels)
    vit.pos_embed.requires_grad_(False)
    patches = (pixels // 16) ** 2
    visible = torch.empty(2, patches // 4, dtype=torch.int64, device="meta")

    def step():
        (partly,) = encode(vit, [VisiblePatches(x, visible)])
        branch(partly, x, visible).backward()

    seen, hidden = patches // 4, patches - patches // 4
    expected = encoder_flops(vit, [GroupCost(2, seen)]) + decoder_flops(branch.decoder, 2, seen, hidden, patches)
    assert count(step) == expected
    full = encoder_flops(vit, [GroupCost(2, 49)]) + decoder_flops(branch.decoder, 2, 49, 147)
    assert full / expected > {96: 5.4, 160: 1.99}[pixels]


# torch 2.13's dynamo asks activations for .grad and hides its own warning in a way that "error" outruns (November 2026)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.slow
def test_compiled_blocks_make_graphs_once_a_size_and_change_nothing():
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph  # traced, not compiled: test_packed.py compiles such graphs

    eager = build_encoder(Size(32, 4, 4), image_size=32, patch=8, classes=5).train()
    compiled, made = copy.deepcopy(eager), []
    compile_blocks(compiled, counting, sizes=2)
    for pixels in (24, 32):
        x = torch.randn(8, 3, pixels, pixels)
        for strong in (3, 5, 0):
            results = []
            for vit in (eager, compiled):
                torch.manual_seed(strong)
                visible = torch.arange(2).expand(8, -1)
                groups = encode(
                    vit, [FullImages(x[:2]), SelectedImages(x, torch.arange(strong)), VisiblePatches(x, visible)]
                )
                vit.zero_grad()
                torch.cat([group.flatten() for group in groups]).sin().sum().backward()
                results.append([*classify(vit, groups[:2]), *(block.attn.qkv.weight.grad for block in vit.blocks)])
            torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
        made.append(len(graphs))
    assert 0 < made[1] - made[0] <= made[0] <= 3 * 3  # the second size's are no more than the first's
    assert torch._dynamo.config.recompile_limit >= 2 * 64
