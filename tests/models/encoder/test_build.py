"""Encoders by name or by size."""

import pytest
import timm
import torch
from torch import nn

from models.encoder.packed import PackedBlock
from models.encoder.positions import sincos_2d
from models.encoder.vit import FullImages, Size, build_encoder, classify, encode, eval_logits
from pipeline.errors import InputError

SMALL = {"image_size": 32, "patch": 8, "classes": 5}


def test_a_name_gives_timms_model_of_that_name():
    ours = build_encoder("vit_tiny_patch16_224", image_size=64, patch=16, classes=7, drop_path=0.2)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=7)
    assert type(ours) is type(theirs)
    assert all(type(block) is PackedBlock for block in ours.blocks)
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert ours.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert isinstance(ours.blocks[0].drop_path1, nn.Identity)


def test_a_size_gives_that_width_depth_and_heads():
    vit = build_encoder(Size(width=48, depth=4, heads=3), attention="varlen", checkpointing=True, **SMALL)
    assert (vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads) == (48, 4, 3)
    assert vit.blocks[0].attention == "varlen"
    assert vit.grad_checkpointing
    assert vit.patch_embed.num_patches == 16


def test_average_pooling_keeps_the_norm_before_the_tokens_leave():
    vit = build_encoder(Size(32, 2, 4), pool="avg", **SMALL)
    assert isinstance(vit.norm, nn.LayerNorm)
    assert isinstance(vit.fc_norm, nn.Identity)
    images = torch.randn(2, 3, 32, 32)
    (tokens,) = encode(vit, [FullImages(images)])
    assert tokens.shape == (2, 17, 32)
    torch.testing.assert_close(classify(vit, [tokens])[0], vit.head(tokens[:, 1:].mean(1)))
    torch.testing.assert_close(eval_logits(vit, images), vit(images))


@pytest.mark.parametrize("model", [Size(32, 2, 4), "deit3_small_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_fixed_positions_are_maes_table_and_never_trained(model):
    vit = build_encoder(model, position="sincos", **SMALL)
    before = 0 if vit.no_embed_class else vit.num_prefix_tokens
    assert not vit.pos_embed[0, :before].any()
    torch.testing.assert_close(vit.pos_embed[0, before:], sincos_2d(vit.embed_dim, (4, 4)).float())
    assert not vit.pos_embed.requires_grad
    assert build_encoder(Size(32, 2, 4), **SMALL).pos_embed.requires_grad


def test_mae_weights_are_xavier_uniform():
    vit = build_encoder(Size(64, 2, 4), weights="mae", **SMALL)
    bound = (6 / (64 + 3 * 64)) ** 0.5
    assert 0.98 * bound < vit.blocks[1].attn.qkv.weight.abs().max().item() <= bound
    assert vit.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert build_encoder(Size(64, 2, 4), **SMALL).cls_token.std().item() < 1e-5  # timm's


def test_beits_weights_are_narrow_and_rescaled_by_depth():
    vit = build_encoder(Size(128, 4, 4), weights="beit", layer_scale=0.1, **SMALL)
    assert vit.blocks[3].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert vit.patch_embed.proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert vit.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    for number, block in enumerate(vit.blocks, 1):
        for last in (block.attn.proj, block.mlp.fc2):
            assert last.weight.std().item() == pytest.approx(0.02 / (2 * number) ** 0.5, rel=0.05)
            assert not last.bias.any()
        for scale in (block.ls1, block.ls2):
            assert torch.equal(scale.gamma, torch.full((128,), 0.1))
    assert not vit.patch_embed.proj.bias.any()


def test_a_patch_that_does_not_divide_the_image_is_refused_with_the_sizes_that_work():
    with pytest.raises(
        InputError, match="patches of 14 pixels do not divide images of 200; set the image size to 196 or 210"
    ):
        build_encoder("vit_small_patch16_224", image_size=200, patch=14, classes=5)
    with pytest.raises(InputError, match=r"set the image size to 16$"):
        build_encoder("vit_small_patch16_224", image_size=8, patch=16, classes=5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("vit_smal_patch16_224", "choose another, such as vit_small_patch16_224"),
        ("resnet18", "resnet18 is none"),
        ("beit_base_patch16_224", "is none: it is built by timm.models.beit"),
        ("vit_tiny_r_s16_p8_224", "is none|PatchEmbed here, got HybridEmbed"),
        ("deit_tiny_distilled_patch16_224", "VisionTransformer here, got VisionTransformerDistilled"),
        ("vit_medium_patch16_gap_240", "is none: Token pooling needs the class token"),
        (Size(30, 2, 4), "heads divide the width, got width 30 and 4 heads"),
    ],
)
def test_what_is_not_a_plain_vit_is_refused_in_one_line(model, message):
    with pytest.raises(InputError, match=message) as caught:
        build_encoder(model, image_size=32, patch=16, classes=5)
    assert "\n" not in str(caught.value)


def test_sincos_needs_a_width_of_whole_quarters():
    with pytest.raises(InputError, match="choose position learned"):
        build_encoder(Size(30, 2, 3), position="sincos", **SMALL)


def test_a_size_has_what_it_says_and_its_packed_pass_is_timms_forward():
    size = Size(32, 2, 4, "swiglu", 170, norm_eps=1e-5, norm_pre=True, registers=2, prefix_positions=False)
    vit = build_encoder(size, image_size=16, patch=4, classes=3, layer_scale=0.5).eval()
    assert vit.blocks[0].mlp.fc1.weight.shape == (170, 32)
    assert vit.blocks[0].mlp.fc2.weight.shape == (32, 85)
    assert vit.pos_embed.shape == (1, 16, 32)
    assert (vit.num_prefix_tokens, vit.norm.eps, vit.patch_embed.proj.bias) == (3, 1e-5, None)
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(eval_logits(vit, images), vit(images))
    with pytest.raises(InputError, match=r"encoder.pool is token, and the encoder has no class token"):
        build_encoder(Size(32, 2, 4, class_token=False), image_size=16, patch=4, classes=3)


@pytest.mark.parametrize("width", [192, 1152, 1280])
def test_the_width_of_an_mlp_is_met_whatever_the_ratio_rounds_to(width):
    for hidden in (4304, 4303, 769, 1):
        ratio = Size(width, 1, 1, mlp_width=hidden).options()["mlp_ratio"]
        assert int(width * ratio) == hidden
