"""Starting from our own exports and from timm's names, whatever their images were normalised by."""

import json
import sys
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from models.encoder.patches import Normalisation
from models.encoder.vit import build_encoder, eval_logits
from models.export import __main__ as export
from models.pretrained import load_encoder
from pipeline.errors import InputError
from tests.models.pretrained.test_released import method


@pytest.mark.parametrize("form", ["timm", "safetensors"])
def test_our_own_exports_load_as_the_run_that_they_came_from(trained, tmp_path, form, monkeypatch, capsys):
    folder = trained("mae:digits")
    monkeypatch.setattr(sys, "argv", ["export", str(folder), "--to", form, "--out", str(tmp_path / "home")])
    export.main()
    one, two = (method(16, patch=4, depth=2, classes=3) for _ in range(2))
    for each in (one, two):
        each.encoder.blocks[0].attn.num_heads = 2
    load_encoder(one, folder)
    load_encoder(two, tmp_path / "home")
    held = two.encoder.state_dict()
    assert all(torch.equal(tensor, held[name]) for name, tensor in one.encoder.state_dict().items())


def test_weights_for_images_of_another_normalisation_compute_the_same_function(tmp_path):
    half = Normalisation((0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
    before, after = method(normalisation=half), method()
    tensors = {name: tensor.contiguous() for name, tensor in before.encoder.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"pretrained_cfg": {"mean": half.mean, "std": half.std}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "patch embedding adapted" in load_encoder(after, tmp_path)
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(
        eval_logits(after.encoder, images), eval_logits(before.encoder, images), rtol=1e-4, atol=1e-5
    )


def test_a_timm_name_is_read_from_timms_caches_and_asks_no_network(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    torch.manual_seed(0)
    own = SimpleNamespace(ema=None, branch=None)
    own.encoder = build_encoder("vit_tiny_patch16_224", image_size=32, patch=16, classes=1000)
    with pytest.raises(InputError, match="timm knows it, its weights are not on this machine"):
        load_encoder(own, name)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32)
    nn.init.normal_(theirs.head.weight)
    cached = tmp_path / f"models--timm--{name}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    save_file(theirs.state_dict(), cached / "snapshots" / "abc" / "model.safetensors")
    assert "patch embedding adapted" in load_encoder(own, name)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs.eval()((images / 255 - 0.5) / 0.5)  # augreg's
    torch.testing.assert_close(eval_logits(own.encoder, images), expected, rtol=1e-3, atol=1e-3)


def test_a_timm_name_is_read_from_torch_hubs_cache_too(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name = "vit_small_patch16_224.dino"
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / timm.get_pretrained_cfg(name).url.rpartition("/")[2]
    before, after = method(), method(classes=7)
    torch.save(before.encoder.state_dict(), path)
    assert f"from {name} (timm {path.name})" in load_encoder(after, name)
    assert torch.equal(after.encoder.norm.weight, before.encoder.norm.weight)
