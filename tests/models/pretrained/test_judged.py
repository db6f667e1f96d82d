"""Released weights are judged, used to predict and exported as a run is, with a recipe that says on which data."""

import csv
import json
import re
import sys

import pytest
import torch
from PIL import Image

from models import predict
from models.encoder.vit import FullImages, encode
from models.evaluate import __main__ as evaluate
from models.export import __main__ as export
from models.pretrained.judged import load_judged
from pipeline.errors import InputError
from tests.models.pretrained import released_files as released

RECIPE = "supervised:digits --data.root {} --data.size 32"


def ran(monkeypatch, door, *arguments):
    monkeypatch.setattr(sys, "argv", ["x", *map(str, arguments)])
    return door.main()


def test_neighbours_of_a_released_encoder_are_measured_beside_its_file(digits, tmp_path, monkeypatch, capsys):
    made = released.dinov2_registers(tmp_path)
    ran(monkeypatch, evaluate, "knn", made.start, "--recipe", RECIPE.format(digits), "--data.file", "test.beton")
    said = capsys.readouterr().out
    assert "4 registers" in said
    assert re.search(r"^knn\S* +\d", said, re.MULTILINE)
    assert (tmp_path / "evaluations.jsonl").exists()
    assert "knn of file.pth" in (tmp_path / "evaluate-knn.html").read_text()


def test_an_encoder_without_a_classifier_of_the_datas_classes_names_none(digits, tmp_path, monkeypatch):
    made = released.timm_folder(tmp_path)  # its classifier has 3 classes
    for door, more in ((evaluate, ["accuracy", made.start]), (predict, [made.start, tmp_path])):
        Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
        with pytest.raises(InputError, match=r"model.safetensors brings no classifier for the classes of this data"):
            ran(monkeypatch, door, *more, "--recipe", RECIPE.format(digits))


def test_a_classifier_whose_classes_a_file_names_predicts_where_no_data_is(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    made = released.timm_folder(tmp_path / "home")
    config = json.loads((tmp_path / "home" / "config.json").read_text())
    (tmp_path / "home" / "config.json").write_text(json.dumps(config | {"label_names": ["ant", "bee", "cat"]}))
    image = torch.full((32, 32, 3), 40, dtype=torch.uint8)  # of one colour, which JPEG keeps
    Image.fromarray(image.numpy()).save(tmp_path / "a.png")
    recipe = "supervised:digits --data.root nowhere --data.size 32 --encoder.pool token --data.evaluate.short-side 1.0"
    ran(monkeypatch, predict, made.start, tmp_path / "a.png", "--out", tmp_path / "p.csv", "--recipe", recipe)
    (row,) = csv.DictReader((tmp_path / "p.csv").read_text().splitlines())
    shown = (image.permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    with torch.inference_mode():
        wanted = made.model.forward_head(made.model.forward_features(shown)).softmax(-1)[0]
    assert row["class"] == ("ant", "bee", "cat")[int(wanted.argmax())]
    assert abs(float(row["confidence"]) - float(wanted.max())) < 1e-3


@pytest.mark.parametrize("make", [released.open_clip, released.dinov2_giant, released.ijepa, released.timm_clip])
def test_released_encoders_are_exported_to_timm_and_are_the_same(digits, tmp_path, monkeypatch, capsys, make):
    made, out = make(tmp_path), tmp_path / "out"
    ran(monkeypatch, export, made.start, "--out", out, "--recipe", RECIPE.format(digits))
    assert "bitwise equal outputs" in capsys.readouterr().out
    assert "weights that others released" in (out / "README.md").read_text()
    again = load_judged(str(out), RECIPE.format(digits), None)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    first = load_judged(made.start, RECIPE.format(digits), None)
    assert first.method.encoder.num_classes == again.method.encoder.num_classes == 0  # a new classifier is left out
    with torch.inference_mode():
        found = [encode(each.method.encoder, [FullImages(images, pooled=False)])[0] for each in (first, again)]
    assert float((found[0] - found[1]).abs().max()) < 1e-4


def test_a_norm_that_timm_cannot_hold_is_one_line(digits, tmp_path, monkeypatch):
    made = released.hf_deit(tmp_path)
    with pytest.raises(InputError, match=r"got 1e-12 with an MLP of kind plain; use --to safetensors or --to onnx"):
        ran(monkeypatch, export, made.start, "--out", tmp_path / "out", "--recipe", RECIPE.format(digits))
    assert not (tmp_path / "out").exists()


def test_weights_without_a_recipe_and_a_run_with_one_are_refused(tmp_path, trained):
    made = released.deit(tmp_path)
    with pytest.raises(InputError, match=r"file.pth is no run, .*add a recipe and its flags: --recipe"):
        load_judged(made.start, None, None)
    with pytest.raises(InputError, match=r"is a run, which has its own recipe; drop --recipe"):
        load_judged(str(trained("supervised:digits")), "supervised:digits", None)
