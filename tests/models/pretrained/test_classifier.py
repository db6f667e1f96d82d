"""A classifier is taken by the names of its classes, never by its shape where names say otherwise."""

import json
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from models.checkpoint import save_load
from models.encoder.heads import probe_head
from models.encoder.vit import eval_logits
from models.export import __main__ as export
from models.load import load_run
from models.pretrained import load_encoder
from models.pretrained.released import read_released, read_safetensors
from tests.models.pretrained.test_released import method

ANIMALS = ("ant", "bee", "cat", "dog", "eel")


def run_of(folder, own, classes):
    tensors = {f"encoder.{name}": tensor for name, tensor in own.encoder.state_dict().items()}
    save_load.save(folder, {"method": tensors, "classes": list(classes)})
    return folder / "last.pt"


def logits_by_name(own, classes, x):
    return dict(zip(classes, eval_logits(own.encoder, x).T, strict=True))


@pytest.mark.parametrize("head", ["linear", "probe"])
@pytest.mark.parametrize("ours", [ANIMALS, ANIMALS[::-1], ("dog", "ant", "eel", "cat", "bee"), ("eel", "bee")])
def test_each_class_keeps_its_logit_whatever_its_place_and_whoever_else_is_there(tmp_path, ours, head):
    before, after = method(classes=len(ANIMALS)), method(classes=len(ours))
    if head == "probe":
        before.encoder.head, after.encoder.head = (probe_head(32, n) for n in (len(ANIMALS), len(ours)))
        before.encoder.head[0].running_mean.normal_()
    said = load_encoder(after, run_of(tmp_path, before, ANIMALS), ours)
    x = torch.randn(3, 3, 32, 32)
    expected, found = logits_by_name(before, ANIMALS, x), logits_by_name(after, ours, x)
    for name in ours:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-6)
    same = "classifier kept, of the same 5 classes"
    assert (same if ours == ANIMALS else f"classifier's rows taken by class name, {len(ours)} of its 5") in said
    assert said.endswith("new: none")


@pytest.mark.parametrize(
    ("ours", "missing"),
    [
        (("ape", "bat", "cow", "doe", "elk"), r"5 of 5 classes (ape, bat, cow, ...)"),
        (("ant", "bee", "cat", "dog", "elk"), r"1 of 5 classes (elk)"),
        ((*ANIMALS, "fox"), r"1 of 6 classes (fox)"),
    ],
)
def test_a_classifier_that_lacks_a_class_is_new_although_its_shape_may_fit(tmp_path, ours, missing):
    before, after = method(classes=5), method(classes=len(ours))
    torch.nn.init.ones_(after.encoder.head.weight)
    said = load_encoder(after, run_of(tmp_path, before, ANIMALS), ours)
    assert f"classifier not taken, as it lacks {missing}; new: head.weight, head.bias" in said
    assert torch.equal(after.encoder.head.weight, torch.ones(len(ours), 32))
    assert torch.equal(after.encoder.norm.weight, before.encoder.norm.weight)


def test_ten_digits_under_other_names_get_a_new_classifier(trained, tmp_path):
    folder = trained("supervised:digits")
    names = load_run(folder).classes
    assert len(names) == 10
    after = method(16, patch=4, classes=10)
    fresh = after.encoder.head.weight.clone()
    said = load_encoder(after, folder, tuple(f"digit {name}" for name in names))
    assert "classifier not taken, as it lacks 10 of 10 classes" in said
    assert torch.equal(after.encoder.head.weight, fresh)
    assert "classifier kept, of the same 10 classes" in load_encoder(after, folder, names)
    assert not torch.equal(after.encoder.head.weight, fresh)


def test_a_file_without_names_keeps_a_classifier_of_the_same_size_and_says_so(tmp_path):
    before, after, other = method(classes=5), method(classes=5), method(classes=6)
    torch.save(before.encoder.state_dict(), tmp_path / "x.pth")
    kept = "classifier kept by its size, 5 classes, as the source names none that fit it"
    assert kept in load_encoder(after, tmp_path / "x.pth", ANIMALS)
    assert torch.equal(after.encoder.head.weight, before.encoder.head.weight)
    said = load_encoder(other, tmp_path / "x.pth", (*ANIMALS, "fox"))
    assert "; classifier" not in said
    assert said.endswith("new: head.weight, head.bias")


def test_a_classifier_behind_a_new_norm_is_new_and_is_not_called_kept(tmp_path):
    after = method(classes=5, fc_norm=True, pool="avg")
    said = load_encoder(after, run_of(tmp_path, method(classes=5), ANIMALS), ANIMALS)
    assert "; classifier" not in said
    assert said.endswith("head.weight, head.bias")


@pytest.mark.parametrize("form", ["timm", "safetensors"])
def test_our_exports_name_the_classes_of_their_run(trained, tmp_path, form, monkeypatch, capsys):
    folder = trained("supervised:digits")
    monkeypatch.setattr(sys, "argv", ["export", str(folder), "--to", form, "--out", str(tmp_path / "home")])
    export.main()
    found = read_safetensors(tmp_path / "home" / "model.safetensors", tmp_path / "home" / "config.json")
    assert found.classes == load_run(folder).classes


@pytest.mark.parametrize("names", [["a", "a", "b", "c", "d"], [1, 2, 3, 4, 5], "abcde", None, [], list("abc")])
def test_names_that_are_none_or_name_two_rows_alike_or_are_of_another_number_are_no_names(tmp_path, names):
    before, after = method(classes=5), method(classes=5)
    save_file({n: t.contiguous() for n, t in before.encoder.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"label_names": names}))
    assert "kept by its size" in load_encoder(after, tmp_path, ("a", "b", "c", "d", "e"))


def test_label_names_of_a_timm_config_are_read(tmp_path, monkeypatch):
    name = "vit_small_patch16_224.dino"
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / timm.get_pretrained_cfg(name).url.rpartition("/")[2]
    before, after = method(classes=5), method(classes=5)
    torch.save(before.encoder.state_dict(), path)
    assert read_released(path).classes is None
    named = timm.get_pretrained_cfg(name)
    named.label_names = ANIMALS
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: named)
    assert "rows taken by class name" in load_encoder(after, name, ANIMALS[::-1])
    assert torch.equal(after.encoder.head.bias, before.encoder.head.bias.flip(0))
