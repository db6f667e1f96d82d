"""A classifier is taken by the names of its classes, never by its shape where names say otherwise."""

import json
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from models.checkpoint import save_load
from models.config.resolve import resolve
from models.encoder.heads import probe_head
from models.encoder.vit import eval_logits
from models.export import __main__ as export
from models.factory import method_class
from models.load import load_run
from models.pretrained import load_encoder
from models.pretrained.released import read_released, read_safetensors
from tests.conftest import TINY
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
    after = method(16, patch=4, classes=10, heads=2, pool="avg")
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
    assert said.endswith(
        "classifier not taken, of 5 classes without names that fit, this run's 6; new: head.weight, head.bias"
    )


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


def supmae(digits, seed, *flags, classes=5):
    torch.manual_seed(seed)
    recipe = resolve("supmae:digits", [*TINY[:3], f"--data.root={digits}", *flags])
    made = method_class(recipe)(recipe, classes).eval()
    with torch.no_grad():
        for tensor in (*made.head.parameters(), *made.head.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return made


def saved(folder, made, classes):
    save_load.save(folder, {"method": made.state_dict(), "classes": list(classes)})
    return folder / "last.pt"


SMALL = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("ours", [ANIMALS, ("eel", "bee")])
def test_supmaes_classifier_is_taken_by_class_name(tmp_path, digits, layers, ours):
    before = supmae(digits, 0, f"--method.layers={layers}")
    after = supmae(digits, 1, f"--method.layers={layers}", classes=len(ours))
    said = load_encoder(after, saved(tmp_path, before, ANIMALS), ours)
    expected = dict(zip(ANIMALS, before.logits(SMALL).T, strict=True))
    for name, scores in zip(ours, after.logits(SMALL).T, strict=True):
        torch.testing.assert_close(scores, expected[name])
    assert ("of the same 5 classes" if ours == ANIMALS else "rows taken by class name, 2 of its 5") in said
    assert "left out" not in said


@pytest.mark.parametrize("change", ["classes", "hidden", "layers"])
def test_a_supmae_classifier_that_does_not_match_is_left_whole_and_named(tmp_path, digits, change):
    before = supmae(digits, 0)
    flags = {"classes": [], "hidden": ["--method.hidden=7"], "layers": ["--method.layers=3"]}[change]
    after = supmae(digits, 1, *flags)
    fresh = {name: tensor.clone() for name, tensor in after.head.state_dict().items()}
    ours = ("ape", *ANIMALS[1:]) if change == "classes" else ANIMALS
    said = load_encoder(after, saved(tmp_path, before, ANIMALS), ours)
    why = {
        "classes": "classifier not taken, as it lacks 1 of 5 classes (ape)",
        "hidden": "classifier not taken, as it reads 128 features, of which this encoder has 7",
        "layers": "classifier not taken, as this run has head.3.weight of shape [128, 128], the source [5, 128]",
    }
    assert why[change] in said
    assert "head.*" in said.split("left out: ")[1]
    assert all(torch.equal(fresh[name], tensor) for name, tensor in after.head.state_dict().items())


def test_supmaes_released_file_brings_its_classifier_where_the_classes_are_as_many(tmp_path, digits):
    before, after, other = supmae(digits, 0), supmae(digits, 1), supmae(digits, 1, classes=6)
    held = {name.removeprefix("encoder."): tensor for name, tensor in before.state_dict().items()}
    held = {name.replace("head.", "cls_head.", 1) if name.startswith("head.") else name: tensor
            for name, tensor in held.items() if not name.startswith("branch.")}  # fmt: skip
    torch.save({"model": held}, tmp_path / "supmae.pth")
    said = load_encoder(after, tmp_path / "supmae.pth", ANIMALS)
    assert "classifier kept by its size, 5 classes, as the source names none that fit it" in said
    assert torch.equal(after.logits(SMALL), before.logits(SMALL))
    said = load_encoder(other, tmp_path / "supmae.pth", (*ANIMALS, "fox"))
    assert "classifier not taken, of 5 classes without names that fit, this run's 6" in said
    assert "left out: cls_head.* (9)" in said


def test_a_method_without_such_a_classifier_leaves_it_out(tmp_path, digits):
    recipe = resolve("mae:digits", [*TINY[:3], f"--data.root={digits}"])
    after = method_class(recipe)(recipe, 5)
    said = load_encoder(after, saved(tmp_path, supmae(digits, 0), ANIMALS), ANIMALS)
    assert "; classifier" not in said
    assert "head.* (9)" in said.split("left out: ")[1]
