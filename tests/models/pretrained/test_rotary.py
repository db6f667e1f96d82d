"""Rotary encoders of others: what says how they turn, which files need the encoder's name, and what is refused."""

import json
import re
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import _registry, eva

from models.config.recipe import Encoder
from models.encoder.build import Size, build_encoder
from models.encoder.rotary import PackedEva
from models.encoder.vit import FullImages, encode
from models.pretrained import load_encoder
from models.pretrained.rotary import how, is_plain_dinov3
from pipeline.errors import InputError
from tests.models.pretrained import released_files as released
from tests.models.pretrained.test_formats import started

NAMES = ["eva02_tiny_patch14_224", "eva02_base_patch16_clip_224", "vit_pe_core_tiny_patch16_384",
         "vit_small_patch16_rope_mixed_ape_224",
         "vit_medium_patch16_rope_reg1_gap_256", "eva_giant_patch14_clip_224"]  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """Make timm know a small model as test_NAME, of its file eva.py."""

    def register(name):
        def create(pretrained=False, **options):
            return getattr(eva, name)(**released.SMALL | {"attn_pool_num_heads": 2} | options)

        create.__module__ = eva.__name__
        monkeypatch.setitem(_registry._model_entrypoints, f"test_{name}", create)
        return f"test_{name}"

    return register


def close(encoder, model):
    """Compare the packed features of both, and that the encoder is an Eva."""
    images = torch.randn(2, 3, released.SIZE, released.SIZE)
    with torch.inference_mode():
        found = encode(encoder, [FullImages(images, pooled=False)])[0]
        wanted = model.forward_features(images)
    scale = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * scale)
    assert isinstance(encoder, PackedEva)


def folder_of(path, name, model, **arguments):
    """A folder as timm saves it."""
    save_file(model.state_dict(), path / "model.safetensors")
    config = {"architecture": name, "model_args": arguments,
              "pretrained_cfg": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    return path


def pool_of(name):
    return "avg" if "gap" in name else "token"


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_timm_says_which_eva_it_is(tmp_path, small, name):
    own = small(name)
    model = released.drawn(timm.create_model(own, num_classes=0, global_pool=pool_of(name), use_fc_norm=False))
    encoder, recipe, read, said = started(folder_of(tmp_path, own, model, img_size=released.SIZE, num_classes=0))
    close(encoder, model)
    assert (recipe.encoder.name, recipe.encoder.pool, recipe.encoder.width) == (own, pool_of(name), None)
    assert f"timm's {own}, patches of 8, pool {pool_of(name)}" in read
    assert "new: head.weight, head.bias" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_bare_file_is_read_into_the_encoder_that_is_named(tmp_path, small, name):
    own = small(name)
    model = released.drawn(timm.create_model(own, num_classes=0, global_pool=pool_of(name), use_fc_norm=False))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "x.pth")
    asked = Encoder(own, patch=8, pool=pool_of(name))
    encoder, _, read, _ = started(tmp_path / "x.pth", encoder=asked, start_normalisation="imagenet")
    close(encoder, model)
    assert read is None


def test_eva_02s_own_names_are_read(tmp_path, small):
    own = small("eva02_base_patch16_clip_224")
    model = released.drawn(timm.create_model(own, num_classes=0, global_pool="token"))
    swaps = {"q_proj.bias": "q_bias", "v_proj.bias": "v_bias", "attn.norm": "attn.inner_attn_ln",
             "mlp.norm": "mlp.ffn_ln", "fc1_g": "w1", "fc1_x": "w2", "fc2": "w3"}  # fmt: skip
    held = {"blocks.0.attn.rope.freqs_cos": torch.zeros(16, 64), "rope.freqs_sin": torch.zeros(16, 64)}
    for name, tensor in model.state_dict().items():
        for ours, theirs in swaps.items():
            name = name.replace(ours, theirs)
        held[name] = tensor
    theirs = eva.checkpoint_filter_fn(dict(held), model)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in model.state_dict().items())
    torch.save(held, tmp_path / "x.pth")
    close(started(tmp_path / "x.pth", encoder=Encoder(own, patch=8), start_normalisation="imagenet")[0], model)
    said = started(tmp_path / "x.pth", encoder=Encoder(own, patch=8))[3]
    assert "images taken to be normalised by CLIP's mean and std, which it does not say" in said


def test_perception_encoders_own_names_are_read(tmp_path, small):
    own = small("vit_pe_core_tiny_patch16_384")
    model = released.drawn(timm.create_model(own, num_classes=0))
    swaps = {"attn_pool.latent": "attn_pool.probe", "attn_pool.proj": "attn_pool.attn.out_proj",
             "attn_pool.norm": "attn_pool.layernorm", "patch_embed.proj": "conv1", "pos_embed": "positional_embedding",
             "cls_token": "class_embedding", "norm_pre": "ln_pre", "norm1": "ln_1", "norm2": "ln_2", "fc1": "c_fc",
             "fc2": "c_proj", "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj",
             "blocks.": "transformer.resblocks."}  # fmt: skip
    held, own_tensors = {"visual.proj": torch.ones(released.WIDTH, 4), "logit_scale": torch.ones(1)}, model.state_dict()
    for kind in ("weight", "bias"):
        parts = [own_tensors.pop(f"attn_pool.{part}.{kind}") for part in ("q", "kv")]
        held[f"visual.attn_pool.attn.in_proj_{kind}"] = torch.cat(parts)
    for name, tensor in own_tensors.items():
        for ours, theirs in swaps.items():
            name = name.replace(ours, theirs)
        name = re.sub(r"^norm\.", "ln_post.", name)
        held[f"visual.{name}"] = (
            tensor.flatten() if name == "class_embedding" else tensor.squeeze(0) if "pos" in name else tensor
        )
    theirs = eva.checkpoint_filter_fn(dict(held), model)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in model.state_dict().items())
    torch.save(held, tmp_path / "x.pth")
    asked = Encoder(own, patch=8, pool="map")
    encoder, _, _, said = started(tmp_path / "x.pth", encoder=asked, start_normalisation="imagenet")
    close(encoder, model)
    images = torch.randn(2, 3, released.SIZE, released.SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.pool(encoder.forward_features(images)), model(images), rtol=1e-4, atol=1e-4)
    assert "left out: proj, logit_scale" in said


def test_dinov3_is_read_into_its_name_and_zero_biases_fit_both_ways(tmp_path, small):
    bare, biased = small("vit_small_patch16_dinov3"), small("vit_small_patch16_dinov3_qkvb")
    for source, target, note in (
        (bare, biased, "biases of zero for queries"),
        (biased, bare, "left out: biases of zero"),
    ):
        model = released.drawn(timm.create_model(source, num_classes=0))
        with torch.no_grad():
            for block in model.blocks if source == biased else ():
                block.attn.q_bias.zero_()
                block.attn.v_bias.zero_()
        torch.save(model.state_dict(), tmp_path / "x.pth")
        encoder, _, _, said = started(tmp_path / "x.pth", encoder=Encoder(target, patch=8))
        close(encoder, model)
        assert note in said
    torch.save(released.drawn(timm.create_model(biased, num_classes=0)).state_dict(), tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"attn.qkv.bias, of which the part q is not zero .* ends in qkvb"):
        started(tmp_path / "x.pth", encoder=Encoder(bare, patch=8))


def test_a_size_with_rope_turns_as_dinov3_does():
    vit = build_encoder(Size(released.WIDTH, 1, 2), image_size=32, patch=8, classes=3, position="rope")
    assert is_plain_dinov3(vit.rope)
    assert how(vit.rope) == how(timm.create_model("vit_small_patch16_dinov3", depth=1).rope)
    assert not is_plain_dinov3(timm.create_model("vit_small_patch16_rope_224", depth=1).rope)


@pytest.mark.parametrize(
    "name", ["eva02_tiny_patch14_224", "vit_small_patch16_rope_224", "vit_pe_core_tiny_patch16_384"]
)
def test_a_bare_file_whose_rotation_nothing_tells_asks_for_the_name(tmp_path, name):
    torch.save(timm.create_model(name, **released.SMALL, attn_pool_num_heads=2).state_dict(), tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"does not say how; name the encoder that it is of, such as") as refused:
        started(tmp_path / "x.pth")
    assert "\n" not in str(refused.value)


def test_rotary_and_other_positions_are_not_mixed(tmp_path, small):
    plain = Encoder(None, released.WIDTH, 2, 2, patch=8)
    for mark, tensors in (("storage_tokens", released.dinov3_names(released.eva("vit_small_patch16_dinov3_qkvb"))),
                          ("q_bias and no", released.eva("eva02_tiny_patch14_224").state_dict())):  # fmt: skip
        torch.save(tensors, tmp_path / "x.pth")
        with pytest.raises(InputError, match=rf"has {mark}.*: its positions are rotary, and this encoder's are not"):
            started(tmp_path / "x.pth", encoder=plain)
    torch.save(
        released.vit(reg_tokens=4, init_values=1.0).state_dict() | {"mask_token": torch.ones(1)}, tmp_path / "x.pth"
    )
    with pytest.raises(InputError, match="does not turn queries and keys as this encoder does"):
        started(tmp_path / "x.pth", encoder=Encoder(small("vit_small_patch16_dinov3"), patch=8))
    made = released.timm_folder(tmp_path)
    with pytest.raises(InputError, match="does not turn queries and keys as this encoder does"):
        started(made.start, encoder=Encoder(small("vit_small_patch16_rope_ape_224"), patch=8))
    one, other = small("vit_small_patch16_rope_224"), small("vit_small_patch16_rope_ape_224")
    folder_of(tmp_path, one, timm.create_model(one, num_classes=0))
    with pytest.raises(InputError, match="trained with position none, got learned"):
        started(tmp_path, encoder=Encoder(other, patch=8))


def test_periods_and_a_theta_that_are_not_dinov3s_are_refused(tmp_path):
    held = released.dinov3_names(released.eva("vit_small_patch16_dinov3_qkvb"))
    torch.save(held | {"rope_embed.periods": held["rope_embed.periods"] * 2}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="by periods of its own, expected DINOv3's 100"):
        started(tmp_path / "x.pth")
    folder_of(tmp_path, "none", released.eva("vit_small_patch16_dinov3"))
    config = {"model_type": "dinov3_vit", "rope_theta": 10000.0, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "x.pth").unlink()
    with pytest.raises(InputError, match=r"turns by a rope_theta of 10000\.0"):
        started(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ref_feat_shape": [7, 7]}, "another ref_feat_shape"),
        ({"no_such": 1}, "timm cannot build test_eva02_tiny_patch14_224"),
    ],
)
def test_a_config_of_another_eva_than_its_architecture_is_refused(tmp_path, small, arguments, message):
    own = small("eva02_tiny_patch14_224")
    folder_of(tmp_path, own, timm.create_model(own, num_classes=0), **arguments)
    with pytest.raises(InputError, match=message) as refused:
        started(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_recipe_of_a_rotary_run_says_its_encoder(tmp_path, small):
    own = small("vit_small_patch16_rope_224")
    model = released.drawn(timm.create_model(own, num_classes=0, global_pool="token"))
    recipe = {"name": "x", "encoder": {"name": own, "patch": 8}, "data": {"size": released.SIZE}}
    save_file(model.state_dict(), tmp_path / "x.safetensors", metadata={"recipe": json.dumps(recipe)})
    encoder, read, _, _ = started(tmp_path / "x.safetensors")
    close(encoder, model)
    assert read.encoder.name == own
    size = {"name": None, "width": released.WIDTH, "depth": 2, "heads": 2, "patch": 8, "position": "rope"}
    built = released.drawn(
        build_encoder(Size(released.WIDTH, 2, 2), image_size=released.SIZE, patch=8, classes=7, position="rope")
    )
    save_file(
        built.state_dict(), tmp_path / "y.safetensors", metadata={"recipe": json.dumps({**recipe, "encoder": size})}
    )
    encoder, read, _, said = started(tmp_path / "y.safetensors")
    close(encoder, built)
    assert (read.encoder.position, read.encoder.layer_scale, read.encoder.norm_eps) == ("rope", None, None)
    assert "new: none" in said


def test_a_gated_mlp_of_another_kind_is_refused(tmp_path, monkeypatch):
    from timm.layers import GluMlp

    made = released.timm_folder(tmp_path)
    create = timm.create_model

    def gated(name, **options):
        return create(name, **options, mlp_layer=GluMlp)

    monkeypatch.setattr(timm, "create_model", gated)
    with pytest.raises(InputError, match=r"whose gated MLP is no SwiGLU with the gate first"):
        started(made.start)


def test_loading_an_eva_with_a_moving_average_fills_both(tmp_path):
    made = released.dinov3_of_timm(tmp_path)
    size = Size(released.WIDTH, 2, 2, norm_eps=1e-5, qkv_bias=False, registers=4)
    encoders = [build_encoder(size, image_size=32, patch=8, classes=7, position="rope", layer_scale=1.0) for _ in "ab"]
    held = SimpleNamespace(encoder=encoders[0], ema=SimpleNamespace(module=encoders[1]), branch=None)
    load_encoder(held, made.start)
    for encoder in encoders:
        close(encoder.eval(), made.model)
