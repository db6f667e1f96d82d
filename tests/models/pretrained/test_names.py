"""An encoder is found under any wrappers, and under Hugging Face's names."""

import sys

import pytest
import torch
from torch import nn

from models.encoder.vit import eval_logits
from models.export import __main__ as export
from models.pretrained import load_encoder
from models.pretrained.names import with_own_names
from models.pretrained.spellings import HUGGING_FACE
from models.pretrained.weights import Weights
from pipeline.errors import InputError
from tests.models.pretrained.test_released import method

WRAPPERS = [
    "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "backbone.", "model.", "encoder.", "module.", "net.vit.",
    "module.model.backbone._orig_mod.", "model.model.model.", "teacher.0.",
]  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("holder", ["model", "state_dict", None, "network"])
def test_wrappers_of_any_name_in_any_order_are_removed(tmp_path, wrapper, holder):
    before, after = method(classes=5), method(classes=5)
    nn.init.zeros_(after.encoder.head.weight)
    held = {f"{wrapper}{name}": tensor for name, tensor in before.encoder.state_dict().items()}
    outermost = wrapper.split(".")[0] + "."
    held |= {f"{outermost}decoder.blocks.{i}.norm1.weight": torch.ones(32) for i in range(8)}
    torch.save({holder: held, "epoch": 3} if holder else held, tmp_path / "x.pth")
    said = load_encoder(after, tmp_path / "x.pth")
    own = after.encoder.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in before.encoder.state_dict().items())
    prefix = f"network.{wrapper}" if holder == "network" else wrapper
    assert f", under {prefix})" in said
    assert "decoder.* (8)" in said or "blocks" in said


def test_a_classifier_beside_the_wrapped_encoder_is_its_classifier(tmp_path):
    before, after = method(classes=5), method(classes=5)
    held = {f"module.{'' if n.startswith('head.') else 'encoder.'}{n}": t
            for n, t in before.encoder.state_dict().items()}  # fmt: skip
    torch.save({"model": held}, tmp_path / "x.pth")
    nn.init.zeros_(after.encoder.head.weight)
    load_encoder(after, tmp_path / "x.pth")
    assert torch.equal(after.encoder.head.weight, before.encoder.head.weight)


def test_wrappers_of_a_real_compiled_and_wrapped_module_are_removed(tmp_path):
    before, after = method(classes=5), method(classes=5)
    wrapped = torch.compile(nn.ModuleDict({"backbone": before.encoder, "projector": nn.Linear(32, 8)}), backend="eager")
    torch.save({"state_dict": wrapped.state_dict()}, tmp_path / "x.pth")
    said = load_encoder(after, tmp_path / "x.pth")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(eval_logits(after.encoder, x), eval_logits(before.encoder, x))
    assert "under _orig_mod.backbone." in said
    assert "left out: projector.* (2)" in said


def test_of_two_encoders_none_is_chosen_in_silence(tmp_path):
    held = method().encoder.state_dict()
    two = {"one": {f"backbone.{n}": t for n, t in held.items()}, "other": held}
    torch.save(two, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"holds 2 encoders, under other\. and one\.backbone\.") as refused:
        load_encoder(method(), tmp_path / "x.pth")
    assert "\n" not in str(refused.value)
    torch.save(held | {f"ema.{n}": t + 1 for n, t in held.items()}, tmp_path / "x.pth")
    after = method(classes=7)
    assert f"left out: ema.* ({len(held)})" in load_encoder(after, tmp_path / "x.pth")
    assert torch.equal(after.encoder.cls_token, held["cls_token"])


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "wrapped"])
def test_vitmaes_folder_and_module_are_a_start_as_the_run_itself_is(trained, tmp_path, form, monkeypatch, capsys):
    transformers = pytest.importorskip("transformers")
    folder, home = trained("mae:digits"), tmp_path / "home"
    monkeypatch.setattr(sys, "argv", ["export", str(folder), "--to", "hf-vitmae", "--out", str(home)])
    export.main()
    start = home
    if form != "safetensors":  # transformers 5 names a module's tensors otherwise than a file's
        theirs, start = transformers.ViTMAEForPreTraining.from_pretrained(home), tmp_path / "x.pth"
        prefix = "module.model." if form == "wrapped" else ""
        torch.save({f"{prefix}{n}": t for n, t in theirs.state_dict().items()}, start)
    one, two = (method(16, patch=4, classes=3, heads=2) for _ in range(2))
    load_encoder(one, folder)
    said = load_encoder(two, start)
    held = two.encoder.state_dict()
    assert all(torch.equal(tensor, held[name]) for name, tensor in one.encoder.state_dict().items())
    assert "decoder_blocks.* (12)" in said
    assert said.endswith("new: head.weight, head.bias")


def test_names_that_cannot_be_read_are_shown_with_their_shapes_and_so_is_what_was_looked_for(tmp_path):
    torch.save({f"layer{i}.conv.weight": torch.ones(i, 3) for i in range(1, 8)}, tmp_path / "resnet.pth")
    with pytest.raises(InputError) as refused:
        load_encoder(method(), tmp_path / "resnet.pth")
    assert str(refused.value) == (
        f"{tmp_path}/resnet.pth (a released file): no encoder can be read; found 7 tensors: layer1.conv.weight [1, 3], "
        "layer2.conv.weight [2, 3], layer3.conv.weight [3, 3], layer4.conv.weight [4, 3] and 3 more; looked for "
        "patch_embed.* and blocks.0.* (timm's names), embeddings.patch_embeddings.projection.weight or "
        "embeddings.patch_embedding.weight (Hugging Face's), or conv1.weight beside class_embedding (open_clip's), "
        "under any prefix"
    )


def test_a_tensor_under_an_unknown_name_is_shown_beside_the_one_that_is_missing(tmp_path):
    held = method().encoder.state_dict()
    held["blocks.0.attn.in_proj_weight"] = held.pop("blocks.0.attn.qkv.weight")
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"qkv.weight of shape \[96, 32\], got nothing under that name, but "
                                         r"blocks.0.attn.in_proj_weight \[96, 32\]"):  # fmt: skip
        load_encoder(method(), tmp_path / "x.pth")


def test_a_bias_of_queries_without_one_of_values_is_no_traceback(tmp_path):
    held = method().encoder.state_dict()
    held["blocks.0.attn.q_bias"] = held.pop("blocks.0.attn.qkv.bias")[:32]
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"qkv.bias of shape \[96\], got nothing .* blocks.0.attn.q_bias \[32\]"):
        load_encoder(method(), tmp_path / "x.pth")


def test_positions_under_another_name_are_not_only_called_none(tmp_path):
    held = method().encoder.state_dict()
    held["position_table"] = held.pop("pos_embed")
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"unless .* another name: it holds position_table \[1, 17, 32\]"):
        load_encoder(method(), tmp_path / "x.pth")


@pytest.mark.parametrize("shape", [(), (3,), (4, 32)])
def test_keys_of_another_shape_than_queries_are_a_line(shape):
    stem = "vit.encoder.layer.0.attention.attention"
    tensors = {f"{stem}.{role}.weight": torch.zeros(32, 32) for role in ("query", "key", "value")}
    tensors |= {HUGGING_FACE: torch.zeros(32, 3, 8, 8), f"{stem}.key.weight": torch.zeros(shape)}
    with pytest.raises(InputError, match=r"x: queries, keys and values differ in shape: .*query.*\[32, 32\]"):
        with_own_names(Weights(tensors, "x", "a file"), {"patch_embed.proj.weight"})
