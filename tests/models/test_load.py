"""A run taken up again is the run: recipe, weights and classes; what is none is said in one line."""

import json

import numpy as np
import pytest
import torch

from models.checkpoint import save_load
from models.config.resolve import resolve
from models.load import load_run, restore_recipe, runnable
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep
from pipeline.labels.splits import known_labels
from pipeline.open import open_data
from tests.conftest import rows, same, weights


@pytest.fixture
def run(trained):
    """A finished tiny run."""
    return trained("supervised:digits")


def test_recipe_weights_and_classes_come_back(run):
    loaded = load_run(run)
    assert same(loaded.method.state_dict(), weights(run))
    assert (loaded.classes, loaded.step) == (tuple("0123456789"), 12)
    assert loaded.recipe.data.weak.jitter == (0.1, 0.1, 0.0, 0.0)  # a tuple again, not JSON's list
    assert json.loads((run / "recipe.json").read_text())["optim"]["epochs"] == loaded.recipe.optim.epochs == 12
    assert not loaded.method.training
    assert same(load_run(run / "last.pt").method.state_dict(), loaded.method.state_dict())


def test_it_judges_as_the_run_judged_itself(run):
    loaded = load_run(run)
    data = loaded.recipe.data
    beton = open_data(data, "test.beton")
    shown = sweep(data, beton, torch.device("cpu"), np.arange(beton.n), 100)
    scores = torch.cat([loaded.method.logits(images) for images in shown])
    right = scores.argmax(1).numpy() == known_labels(beton, None)[np.arange(beton.n)]
    (said,) = (row for row in rows(run) if row.get("evaluation") == "test")
    assert said["values"]["top1"] == pytest.approx(right.mean())


def test_a_run_of_varlen_attention_answers_on_a_cpu_too(run, tmp_path):
    state = save_load.load(run / "last.pt")
    state["recipe"]["encoder"]["attention"] = "varlen"
    save_load.save(tmp_path, state)
    loaded, images = load_run(tmp_path), torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    assert loaded.recipe.encoder.attention == "varlen"
    assert torch.equal(loaded.method.logits(images), load_run(run).method.logits(images))
    assert runnable(loaded.recipe, torch.device("cuda")) is loaded.recipe


@pytest.mark.parametrize(("held", "said"), [
    ({"weights": torch.zeros(1)}, "holds no method and recipe"),
    ({"method": {}, "recipe": {"name": "nobody:digits"}, "classes": [], "step": 0}, "cannot be restored"),
    ({"method": {}, "recipe": {"name": "mae:digits", "optim": {"lrr": 1}}, "classes": [], "step": 0}, "optim.lrr"),
    ({"method": {}, "recipe": {"name": "mae:digits"}, "classes": [], "step": 0}, "does not fit the recipe mae:digits"),
])  # fmt: skip
def test_what_is_no_run_is_said(held, said, tmp_path):
    save_load.save(tmp_path, held)
    with pytest.raises(InputError, match=said):
        load_run(tmp_path)


def test_a_folder_without_a_checkpoint_is_said(tmp_path):
    with pytest.raises(InputError, match=r"expected a run folder with last\.pt"):
        load_run(tmp_path)


@pytest.mark.parametrize("name", ["semi_mae:digits", "mae:in1k_b16_growing", "mae:digits_mask_ratio/2"])
def test_a_recipe_survives_json(name, tmp_path):
    from dataclasses import asdict

    recipe = resolve(name, [])
    assert restore_recipe(json.loads(json.dumps(asdict(recipe))), tmp_path) == recipe
