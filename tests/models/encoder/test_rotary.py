"""Rotary encoders: the packed pass of timm's Eva against timm's own forward, in float64."""

import copy

import pytest
import timm
import torch
from torch import nn

from models.config.recipe import Encoder, Optim
from models.distributed.compile import compile_blocks
from models.encoder.build import Size, build_encoder
from models.encoder.freeze import adapt
from models.encoder.lora import LoRALinear, lora_layers, merged
from models.encoder.rotary import PackedEva, PackedEvaBlock, as_packed_eva, table_of
from models.encoder.vit import (
    FullImages,
    MaskedImages,
    SelectedImages,
    VisiblePatches,
    encode,
    encode_every,
    eval_logits,
)
from models.optim.build import build_optimiser
from pipeline.errors import InputError

DOUBLE = torch.float64
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5, "img_size": (24, 32), "patch_size": 8}
EXACT = {"rtol": 0, "atol": 1e-11}
KINDS = {
    "eva02_tiny_patch14_224": "absolute positions beside rotary ones, SwiGLU",
    "eva02_base_patch14_224": "queries, keys and values apart, a norm in SwiGLU",
    "eva02_base_patch16_clip_224": "a norm behind attention",
    "eva_giant_patch14_224": "no rotation at all",
    "vit_small_patch16_dinov3": "registers, LayerScale, no biases, coordinates from -1 to 1, halves turned",
    "vit_small_plus_patch16_dinov3_qkvb": "SwiGLU with its gate apart",
    "vit_pe_core_tiny_patch16_384": "a norm before the blocks, pooling by attention",
    "vit_pe_lang_gigantic_patch14_448": "no class token and no final norm",
    "vit_medium_patch16_rope_reg1_gap_256": "a register without a class token",
    "vit_small_patch16_rope_ape_224": "positions of patches alone",
    "vit_small_patch16_rope_mixed_224": "learned frequencies, which differ by block and head",
    "vit_large_patch16_sapiens2": "norms of queries and keys, and fewer keys than queries",
}


def built(name, **options):
    """timm's model of a small size in float64, with weights that are all at work."""
    torch.manual_seed(0)
    options = SMALL | {"attn_pool_num_heads": 4, "dynamic_img_size": True} | options
    if "sapiens2" in name:
        options["num_kv_heads"] = (4, 2)
    model = timm.create_model(name, **options).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def images(n=3, height=24, width=32):
    return torch.randn(n, 3, height, width, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


class Chosen(nn.Module):
    """In the place of timm's patch dropout: it keeps the patches `ids`, in their order."""

    def __init__(self, ids, prefix):
        super().__init__()
        self.ids, self.prefix = ids, prefix

    def forward(self, x):
        kept = x[:, self.prefix :].gather(1, self.ids[..., None].expand(-1, -1, x.shape[2]))
        return torch.cat([x[:, : self.prefix], kept], 1), self.ids


class Covered(nn.Module):
    """Around timm's patch embedding: a token stands in the places of some patches."""

    def __init__(self, embed, covered, token):
        super().__init__()
        self.embed, self.covered, self.token, self.grid_size = embed, covered, token, embed.grid_size

    def forward(self, x):
        tokens = self.embed(x)
        return torch.where(self.covered.unflatten(1, tokens.shape[1:3])[..., None], self.token, tokens)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_eva_is_timms_forward_and_visible_patches_keep_their_own_rotations(name):
    plain = built(name)
    vit, x, y = as_packed_eva(copy.deepcopy(plain)), images(), images(2, 40, 16)
    ids = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(n))[:5] for n in range(3)])
    groups = [
        FullImages(x, pooled=False),
        SelectedImages(x, torch.tensor([2, 0]), pooled=False),
        VisiblePatches(x, ids),
    ]
    whole, selected, visible, other = encode(vit, [*groups, FullImages(y, pooled=False)])
    expected = plain.forward_features(x)
    torch.testing.assert_close(whole, expected, **EXACT)
    torch.testing.assert_close(selected, expected[[2, 0]], **EXACT)
    torch.testing.assert_close(other, plain.forward_features(y), **EXACT)
    torch.testing.assert_close(eval_logits(vit, x), plain(x).detach(), **EXACT)
    chosen = copy.deepcopy(plain)
    chosen.patch_drop = Chosen(ids, plain.num_prefix_tokens)
    expected = chosen.forward_features(x)
    torch.testing.assert_close(visible, expected, **EXACT)
    visible.sin().sum().backward()
    expected.sin().sum().backward()
    for (found, ours), theirs in zip(vit.named_parameters(), chosen.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=found, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224"])
def test_mask_tokens_are_turned_as_the_patches_that_they_stand_for(name):
    plain, x = built(name), images()
    vit = as_packed_eva(copy.deepcopy(plain))
    covered, token = torch.rand(3, 12) < 0.5, torch.randn(32, dtype=DOUBLE)
    order = torch.stack([torch.randperm(12) for _ in range(3)])
    (ours,) = encode(vit, [MaskedImages(x, covered, token)])
    (mixed,) = encode(vit, [MaskedImages(x, covered.gather(1, order), token, ids=order)])
    plain.patch_embed = Covered(plain.patch_embed, covered, token)
    expected = plain.forward_features(x)
    torch.testing.assert_close(ours, expected, **EXACT)
    prefix = plain.num_prefix_tokens
    torch.testing.assert_close(
        mixed[:, prefix:], expected[:, prefix:].gather(1, order[..., None].expand(-1, -1, 32)), **EXACT
    )


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_224"])
def test_every_layer_is_that_of_timms_blocks_with_checkpointing_too(name):
    plain, x = built(name), images()
    vit = as_packed_eva(copy.deepcopy(plain)).train()
    vit.set_grad_checkpointing(True)
    layers = encode_every(vit, FullImages(x))
    expected = plain.forward_intermediates(x, output_fmt="NLC", intermediates_only=True)
    for ours, theirs in zip(layers[1:-1], expected[:-1], strict=True):
        torch.testing.assert_close(ours[:, plain.num_prefix_tokens :], theirs, **EXACT)
    layers[-1].sin().sum().backward()
    plain.forward_features(x).sin().sum().backward()
    for ours, theirs in zip(vit.blocks.parameters(), plain.blocks.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-10)


def test_coordinates_are_augmented_in_training_as_timm_does_and_never_when_judged():
    plain = built("vit_small_patch16_dinov3", rope_rescale_coords=2.0, rope_shift_coords=0.1)
    vit, x = as_packed_eva(copy.deepcopy(plain)), images()
    torch.testing.assert_close(eval_logits(vit, x), plain(x).detach(), **EXACT)
    vit.train()
    torch.testing.assert_close(eval_logits(vit, x), plain(x).detach(), **EXACT)
    torch.manual_seed(3)
    (ours,) = encode(vit, [FullImages(x, pooled=False)])
    torch.manual_seed(3)
    torch.testing.assert_close(ours, plain.train().forward_features(x), **EXACT)
    assert (ours - plain.eval().forward_features(x)).abs().max() > 1e-3


def test_a_model_of_timms_recipes_draws_nothing_for_its_positions_in_training():
    vit, x = (
        build_encoder("vit_tiny_patch16_dinov3_qkvb", image_size=32, patch=16, classes=3).train(),
        images(2, 32, 32),
    )
    state = torch.get_rng_state()
    encode(vit, [FullImages(x.float())])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_table_of_a_grid_is_made_once_and_serves_training_after_inference():
    vit, x, calls = as_packed_eva(built("vit_small_patch16_dinov3")), images(), []
    made = vit.rope.get_embed
    vit.rope.get_embed = lambda *given, **named: calls.append(named) or made(*given, **named)
    with torch.inference_mode():
        eval_logits(vit, x)
    (tokens,) = encode(vit, [FullImages(x)])
    tokens.sum().backward()
    assert len(calls) == 1
    encode(vit, [FullImages(images(1, 8, 8))])
    assert [call["shape"] for call in calls] == [[3, 4], [1, 1]]
    assert table_of(vit.float().rope, (3, 4)).dtype == torch.float32


def test_a_rope_module_of_one_grid_runs_that_grid_and_refuses_another():
    plain = built("eva02_tiny_patch14_224", dynamic_img_size=False)
    vit = as_packed_eva(copy.deepcopy(plain))
    torch.testing.assert_close(eval_logits(vit, images()), plain(images()).detach(), **EXACT)
    with pytest.raises(InputError, match=r"built for \(3, 4\) patches, got images of \(5, 2\)"):
        eval_logits(vit, images(2, 40, 16))
    one = as_packed_eva(built("vit_small_patch16_dinov3", dynamic_img_size=False))
    any_grid = as_packed_eva(built("vit_small_patch16_dinov3"))
    for x in (images(), images(2, 40, 16)):
        torch.testing.assert_close(eval_logits(one, x), eval_logits(any_grid, x), rtol=0, atol=1e-5)


def test_a_class_token_alone_comes_back_where_it_is_pooled_and_stochastic_depth_is_timms():
    plain = built("vit_small_patch16_dinov3", global_pool="token", drop_path_rate=0.5)
    vit, x = as_packed_eva(copy.deepcopy(plain)), images()
    (tokens,) = encode(vit, [FullImages(x)])
    torch.testing.assert_close(tokens, plain.forward_features(x)[:, :1], **EXACT)
    torch.manual_seed(0)
    first = encode(vit.train(), [FullImages(images(16))])[0]
    assert (first - encode(vit.eval(), [FullImages(images(16))])[0]).abs().amax((1, 2)).ne(0).any()


@pytest.mark.slow
def test_compiling_changes_nothing():
    eager = as_packed_eva(built("vit_small_plus_patch16_dinov3_qkvb"))
    traced, x = copy.deepcopy(eager), images()
    compile_blocks(traced, "eager")
    groups = [FullImages(x), VisiblePatches(x, torch.arange(4).expand(3, -1))]
    with torch.no_grad():
        torch.testing.assert_close(encode(traced, groups), encode(eager, groups), **EXACT)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("eva02_enormous_patch14_clip_224", {}, "EvaBlock here, got EvaBlockPostNorm"),
        ("vit_small_patch16_dinov3", {"patch_drop_rate": 0.5}, "got PatchDropoutWithIndices"),
        ("vit_small_patch16_dinov3", {"in_chans": 1}, "square patches of 3 channels"),
        ("vit_small_patch16_dinov3", {"patch_size": (8, 4)}, "square patches of 3 channels"),
    ],
)
def test_what_packing_would_change_is_refused_and_left_as_it_was(name, options, message):
    model = timm.create_model(name, **SMALL | options)
    with pytest.raises(InputError, match=message):
        as_packed_eva(model)
    assert not isinstance(model, PackedEva)
    assert not any(isinstance(block, PackedEvaBlock) for block in model.blocks)


def test_a_name_gives_timms_model_of_that_name():
    with torch.device("meta"):
        ours = build_encoder("vit_small_patch16_dinov3", image_size=(32, 64), patch=16, classes=3)
        theirs = timm.create_model("vit_small_patch16_dinov3", num_classes=3)
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }
    assert (ours.global_pool, ours.patch_embed.grid_size) == ("token", (2, 4))


def test_a_size_with_rope_is_dinov3_of_that_size():
    size = Size(32, 2, 4, "swiglu", 176, norm_eps=1e-5, qkv_bias=False, registers=4)
    vit = build_encoder(size, image_size=16, patch=4, classes=3, layer_scale=0.5, position="rope")
    options = {"embed_dim": 32, "num_heads": 4, "patch_size": 4, "num_classes": 3, "mlp_ratio": 88 / 32}
    named = timm.create_model("vit_small_plus_patch16_dinov3", depth=2, global_pool="token", **options)
    named.load_state_dict(vit.state_dict())
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(eval_logits(vit, x), named.eval()(x).detach())
    assert vit.blocks[0].gamma_1[0] == 0.5
    plain = build_encoder(Size(32, 2, 4), image_size=16, patch=4, classes=3, position="rope")
    assert plain.blocks[0].mlp.fc1.out_features == 128
    assert (plain.blocks[0].gamma_1, plain.norm.eps, plain.pos_embed, plain.reg_token) == (None, 1e-6, None, None)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("vit_small_patch16_dinov3", {"position": "irpe"}, "position is irpe, and .* has rotary positions"),
        ("vit_small_patch16_dinov3", {"position": "none"}, "position is none, and .* set encoder.position to rope"),
        ("vit_small_patch16_dinov3", {"position": "sincos"}, "no absolute positions to replace"),
        ("vit_tiny_patch16_224", {"position": "rope"}, "vit_tiny_patch16_224 is no rotary encoder"),
        ("eva_giant_patch14_clip_224", {"position": "rope"}, "eva_giant_patch14_clip_224 is no rotary encoder"),
        ("vit_medium_patch16_rope_reg1_gap_256", {}, "Token pooling needs the class token"),
        (Size(32, 2, 4, act="quick_gelu"), {"position": "rope"}, "act is quick_gelu, and rotary encoders have gelu"),
        (Size(32, 2, 4, "swiglu", 31), {"position": "rope"}, "mlp_width is 31"),
    ],
)
def test_positions_that_a_model_cannot_have_are_refused_in_one_line(model, options, message):
    with torch.device("meta"), pytest.raises(InputError, match=message) as refused:
        build_encoder(model, image_size=32, patch=16, classes=3, **options)
    assert "\n" not in str(refused.value)


ADAPTED = ["vit_small_plus_patch16_dinov3_qkvb", "eva02_base_patch16_clip_224"]


@pytest.mark.parametrize("name", ADAPTED)
def test_lora_adapts_every_weight_of_a_block_and_merges_into_the_same_outputs(name):
    vit, x = as_packed_eva(built(name)), images()
    before, weights = eval_logits(vit, x), len([each for each in vit.blocks.modules() if isinstance(each, nn.Linear)])
    adapt(vit, Encoder(adapt="lora", lora_rank=2, lora_alpha=4.0))
    assert len(list(lora_layers(vit))) == weights
    torch.testing.assert_close(eval_logits(vit, x), before, **EXACT)
    with torch.no_grad():
        for layer in lora_layers(vit):
            layer.lora_B.add_(torch.randn_like(layer.lora_B) * 0.1)
    groups = [FullImages(x, pooled=False), VisiblePatches(x, torch.arange(4).expand(3, -1))]
    tokens = torch.cat([each.flatten(0, 1) for each in encode(vit, groups)])
    plain = merged(vit)
    assert {key: each.shape for key, each in plain.state_dict().items()} == {
        key: each.shape for key, each in built(name).state_dict().items()
    }
    whole = torch.cat([each.flatten(0, 1) for each in encode(plain, groups)])
    torch.testing.assert_close(tokens, whole, **EXACT)
    tokens.sin().sum().backward()
    for part in plain.parameters():
        part.requires_grad_(True)
    torch.cat([each.flatten(0, 1) for each in encode(plain, groups)]).sin().sum().backward()
    for key, layer in vit.named_modules():
        if isinstance(layer, LoRALinear):
            dense = plain.get_submodule(key).weight.grad
            torch.testing.assert_close(layer.lora_A.grad, 2.0 * layer.lora_B.T @ dense, rtol=0, atol=1e-9)
            torch.testing.assert_close(layer.lora_B.grad, 2.0 * dense @ layer.lora_A.T, rtol=0, atol=1e-9)
            assert layer.base.grad is None


@pytest.mark.parametrize(
    ("chosen", "trained"),
    [
        ("head", {"norm.weight", "norm.bias", "head.weight", "head.bias"}),
        ("half", {"gamma_2", "norm2.bias", "mlp.fc1_g.weight"}),
        (1, {"gamma_1", "attn.qkv.weight", "attn.q_bias"}),
        ("bitfit", {"attn.q_bias", "attn.v_bias", "mlp.fc2.bias"}),
    ],
    ids=str,
)
def test_parts_of_a_rotary_encoder_are_frozen_as_those_of_any_other(chosen, trained):
    vit = as_packed_eva(built("vit_small_plus_patch16_dinov3_qkvb"))
    frozen = adapt(vit, Encoder(adapt=chosen))
    learns = {name for name, parameter in vit.named_parameters() if parameter.requires_grad}
    last = {name.removeprefix("blocks.1.") for name in learns}
    assert trained <= last
    assert all(name.endswith("bias") or not name.startswith("blocks.0.") for name in learns)
    assert any(part is vit.patch_embed for part in frozen) == (chosen != "bitfit")
    assert not {"cls_token", "reg_token", "patch_embed.proj.weight"} & learns


def test_learned_frequencies_are_positions_to_the_optimiser_and_layers_decay_by_block():
    method = nn.Module()
    method.encoder = as_packed_eva(built("vit_small_patch16_rope_mixed_224"))
    found = build_optimiser(method, Optim(weight_decay=0.1, layer_decay=0.5, decay_tokens=False))
    of = {id(each): group for group in found.param_groups for each in group["params"]}
    group = of[id(method.encoder.rope.freqs)]
    assert (group["weight_decay"], group["lr_scale"]) == (0.0, 1.0)
    assert of[id(method.encoder.blocks[0].gamma_1)]["lr_scale"] == 0.25
    assert of[id(method.encoder.blocks[0].gamma_1)]["weight_decay"] == 0.0
    assert of[id(method.encoder.cls_token)]["lr_scale"] == 0.125
