"""Runs on images of 16 x 8: every family of methods trains, and a finished run is judged, predicts and is exported."""

import csv
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import train
from models import predict
from models.evaluate import __main__ as evaluate
from models.export import __main__ as export
from models.export.export_format import as_input, images_like
from models.load import load_run
from models.preview import columns, views
from pipeline.errors import InputError
from pipeline.labels.splits import known_labels
from pipeline.open import open_data
from pipeline.store.beton import open_beton
from tests.conftest import rows, weights

TALL = ["--data.size", "16", "8", "--optim.epochs=3", "--optim.warmup-epochs=1"]
WINDOWS = ["--data.mask.window=2", "--data.mask.windows=2"]
FAMILIES = {
    "supervised:digits": [], "fixmatch:digits": [], "mae:digits": [], "crossmae:digits": [], "simmim:digits": [],
    "lomar:digits": WINDOWS, "lomar:digits_irpe": WINDOWS, "supmae:digits": [], "semi_mae:digits": [],
    "semi_mae:digits_simmim": [], "semiformer:digits_mae": ["--method.channels=16"],
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> dict[str, Path]:
    return {}


@pytest.fixture
def run(tiny, made, tmp_path_factory):
    """run(recipe) -> the folder of its run of three steps on 16 x 8 pixels, the same one for every test."""

    def of(recipe: str) -> Path:
        if recipe not in made:
            folder = tmp_path_factory.mktemp("tall") / "run"
            assert tiny(recipe, folder, *TALL, *FAMILIES[recipe]) == train.DONE
            made[recipe] = folder
        return made[recipe]

    return of


@pytest.fixture
def asked(monkeypatch):
    def call(door, *argv: object) -> object:
        monkeypatch.setattr(sys, "argv", ["door", *map(str, argv)])
        return door.main()

    return call


@pytest.mark.parametrize("recipe", FAMILIES)
def test_every_family_trains_on_images_that_are_not_square(run, recipe):
    folder = run(recipe)
    losses = [row["loss"] for row in rows(folder) if "loss" in row]
    assert len(losses) == 1
    assert np.isfinite(losses).all()
    assert json.loads((folder / "recipe.json").read_text())["data"]["size"] == [16, 8]
    assert any(row.get("evaluation") == "test" for row in rows(folder))
    held = weights(folder)
    if "encoder.pos_embed" in held:
        assert held["encoder.pos_embed"].shape[1] == 1 + 8


def test_a_run_goes_on_with_the_same_two_numbers_and_no_others(tiny, tmp_path):
    folder = tmp_path / "run"
    assert tiny("mae:digits", folder, *TALL, "--run.stop-step=2") == 75
    with pytest.raises(InputError, match=r"was begun with data.size 16 8, now it is 16;"):
        tiny("mae:digits", folder, "--optim.epochs=3", "--optim.warmup-epochs=1")
    assert tiny("mae:digits", folder, *TALL) == train.DONE


def test_sizes_in_proportion_grow_while_a_run_trains(tiny, tmp_path, capsys):
    flags = [*TALL, "--data.size", "32", "16", "--data.sizes", "16", "24", "32"]
    assert tiny("mae:digits", tmp_path / "run", *flags) == train.DONE
    said = "images of 16 x 8 pixels from step 0, 24 x 12 pixels from step 1, 32 x 16 pixels from step 2"
    assert said in capsys.readouterr().out


def test_accuracy_and_predict_judge_it_alike(run, digits, tmp_path, asked, capsys):
    folder, beton = run("semi_mae:digits"), open_beton(digits / "test.beton")
    (tmp_path / "files").mkdir()
    for i, label in enumerate(known_labels(beton, None)[np.arange(beton.n)]):
        (tmp_path / "files" / f"{label}_{i:03d}.jpg").write_bytes(beton.jpeg(i).tobytes())
    asked(predict, folder, tmp_path / "files", "--out", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as file:
        found = list(csv.DictReader(file))
    right = np.mean([row["file"].rpartition("/")[2][0] == row["class"] for row in found])
    (said,) = (row["values"]["top1"] for row in rows(folder) if row.get("evaluation") == "test")
    assert right == pytest.approx(said)
    asked(evaluate, "accuracy", folder, "--data.file", "test.beton")
    assert f"top1                     {100 * said:.1f} %" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["semi_mae:digits", "lomar:digits", "simmim:digits", "crossmae:digits"])
def test_reconstructions_are_drawn_with_both_sides(run, recipe, asked, capsys):
    asked(evaluate, "reconstruct", run(recipe), "--ratios", 0.5, "--measured", 20)
    assert "mse_0.5" in capsys.readouterr().out


def test_timm_loads_it_answers_bitwise_and_cuts_as_it_says(run, tmp_path, asked, capsys):
    folder = run("semi_mae:digits")
    asked(export, folder, "--out", tmp_path / "home")
    assert "bitwise equal" in capsys.readouterr().out
    model = timm.create_model(f"local-dir:{tmp_path / 'home'}", pretrained=True).eval()
    loaded = load_run(folder)
    images = images_like(loaded)
    assert images.shape[2:] == (16, 8)
    with torch.inference_mode():
        assert torch.allclose(model(as_input(loaded, images)), loaded.method.logits(images), atol=1e-5)
    cut = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    assert cut(Image.new("RGB", (70, 50))).shape == (3, 16, 8)
    card = (tmp_path / "home" / "README.md").read_text()
    assert "they just cover 16 x 8, then the middle 16 x 8 (height x width)" in card
    assert "--data.size 16 8" in card


@pytest.mark.skipif(not (find_spec("onnxruntime") and find_spec("onnxscript")), reason="onnxruntime is not installed")
def test_onnx_holds_it_relative_positions_included(run, tmp_path, asked, capsys):
    asked(export, run("lomar:digits_irpe"), "--to", "onnx", "--out", tmp_path / "onnx")
    assert "when loaded with onnxruntime" in capsys.readouterr().out


def test_vitmae_which_is_for_squares_refuses_it_in_a_line(run, tmp_path, asked):
    with pytest.raises(InputError, match=r"hf-vitmae holds models of square images, .* has 16 x 8; use --to timm"):
        asked(export, run("mae:digits"), "--to", "hf-vitmae", "--out", tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []


def test_a_start_from_it_says_how_its_positions_were_resampled(run, tiny, tmp_path, capsys):
    flags = [*TALL, "--run.start", str(run("mae:digits"))]
    wide = ["--data.size", "8", "16"]  # of a table of the same shape
    assert tiny("supervised:digits", tmp_path / "same", *flags, "--encoder.position=sincos") == train.DONE
    assert "resampled" not in capsys.readouterr().out
    assert tiny("supervised:digits", tmp_path / "wide", *flags, "--encoder.position=sincos", *wide) == train.DONE
    assert "positions resampled from 4 x 2 to 2 x 4 patches" in capsys.readouterr().out


def test_the_preview_of_a_recipe_shows_views_of_both_sides(run):
    recipe = load_run(run("semi_mae:digits")).recipe
    pictures = views(recipe, open_data(recipe.data, recipe.data.train), np.arange(2))
    for row in pictures:
        assert [picture.shape for picture in row[1:]] == [(16, 8, 3)] * (len(columns(recipe)) - 1)
