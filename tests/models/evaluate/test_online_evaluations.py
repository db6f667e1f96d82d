"""--run.probe and --run.rankme while a masked method trains: what they say, and that the encoder does not notice."""

import ast

import numpy as np
import pytest
from PIL import Image

from models.evaluate.evaluation_log import read_evaluations
from pipeline.convert.conversion import convert
from pipeline.errors import InputError
from pipeline.sources.objects import Dataset
from tests.conftest import rows, same, weights
from tests.models.ranks import run_ranks

ASKED = ["--run.probe", "--run.rankme", "--run.evaluate-steps=4", "--encoder.drop-path=0.3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("online")


@pytest.fixture
def measured(tiny, runs):
    """The folder of a masked run that is measured three times; trained once."""
    folder = runs / "measured"
    if not folder.exists():
        assert tiny("mae:digits", folder, *ASKED) == 0
    return folder


def evaluations(folder) -> list[dict]:
    return [row for row in rows(folder) if "evaluation" in row]


def test_the_encoder_is_bit_for_bit_that_of_a_run_without_them(measured, tiny, tmp_path):
    assert tiny("mae:digits", tmp_path, "--encoder.drop-path=0.3") == 0
    assert same(weights(tmp_path), weights(measured))
    lost = [row for row in rows(measured) if "loss" in row]
    assert lost == [row for row in rows(tmp_path) if "loss" in row]


def test_each_evaluation_says_them_and_rank_is_said_with_val_alone(measured):
    found = {(row["step"], row["evaluation"]): row["values"] for row in evaluations(measured)}
    assert [*found] == [(4, "val"), (8, "val"), (12, "val"), (12, "test")]
    assert all(values.keys() == {"knn", "probe", "rankme"} for (_, name), values in found.items() if name == "val")
    assert found[12, "test"].keys() == {"knn", "probe"}
    assert all(0 < values["probe"] < 1 for values in found.values())
    assert all(1 < values["rankme"] <= 32 for (_, name), values in found.items() if name == "val")


def test_k_nn_is_what_it_is_without_them(measured, tiny, tmp_path):
    assert tiny("mae:digits", tmp_path, "--encoder.drop-path=0.3", "--run.evaluate-steps=4") == 0
    plain, beside = ([row["values"]["knn"] for row in evaluations(folder)] for folder in (tmp_path, measured))
    assert plain == beside


def test_they_are_the_evaluators_numbers(measured, asked):
    last = {row["evaluation"]: row["values"] for row in evaluations(measured)}
    asked("linear_probe", measured)
    assert read_evaluations(measured)[-1]["values"]["probe"] == pytest.approx(last["val"]["probe"], abs=1 / 300)
    asked("rankme", measured)
    assert read_evaluations(measured)[-1]["values"]["rankme"] == pytest.approx(last["val"]["rankme"], rel=1e-4)


def test_a_run_that_is_stopped_and_goes_on_measures_the_same_to_the_bit(measured, tiny, tmp_path):
    assert tiny("mae:digits", tmp_path, *ASKED, "--run.stop-step=6") == 75
    assert tiny("mae:digits", tmp_path, *ASKED) == 0
    assert rows(tmp_path) == rows(measured)


def test_they_may_be_asked_for_when_a_run_goes_on(tiny, tmp_path):
    flags = ["--run.evaluate-steps=4", "--data.test=None"]
    assert tiny("supervised:digits", tmp_path, *flags, "--run.stop-step=6") == 75
    assert tiny("supervised:digits", tmp_path, *flags, "--run.probe") == 0
    assert [set(row["values"]) for row in evaluations(tmp_path)] == [{"top1", "top5"}, *[{"top1", "top5", "probe"}] * 2]


def test_without_labels_rank_is_measured_and_a_probe_refused(tiny, tmp_path):
    root, noise = tmp_path / "data", np.random.default_rng(0)
    for name in ("train", "val"):
        pictures = [Image.fromarray(noise.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(60)]
        convert(Dataset(60, lambda i, pictures=pictures: (pictures[i], None), None), root / f"{name}.beton")
    flags = [f"--data.root={root}", "--data.split=None", "--data.test=None"]
    assert tiny("mae:digits", tmp_path / "rank", *flags, "--run.rankme") == 0
    (row,) = evaluations(tmp_path / "rank")
    assert row["values"].keys() == {"rankme"}
    with pytest.raises(InputError, match=r"run.probe learns from labels, and .*train.beton has none known"):
        tiny("mae:digits", tmp_path / "probe", *flags, "--run.probe")
    assert not (tmp_path / "probe").exists()


def test_an_encoder_without_plain_tokens_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="linear probe and RankMe read the tokens of a plain ViT"):
        tiny("semiformer:digits", tmp_path / "run", "--run.rankme")
    assert not (tmp_path / "run").exists()


RANK = """
import sys
from dataclasses import replace
from pathlib import Path

from models.config.recipe import Run
from models.distributed import process_group
from models.evaluate.validator import Validator
from models.load import load_run
from pipeline.store.beton import open_beton

folder = Path(sys.argv[1])
world = process_group.start(Run(device="cpu"))
loaded = load_run(folder / "last.pt")
recipe = replace(loaded.recipe, run=Run(device="cpu", probe=True, rankme=True))
train = open_beton(Path(recipe.data.root) / recipe.data.train)
print(Validator(recipe, recipe.data.val, train, world)(loaded.method))
process_group.finish(world)
"""


def test_two_ranks_measure_what_one_does(measured):
    (alone,) = run_ranks(RANK, 1, str(measured))
    assert run_ranks(RANK, 2, str(measured)) == [alone, alone]
    last = [row["values"] for row in evaluations(measured) if row["evaluation"] == "val"][-1]
    assert ast.literal_eval(alone) == {name: pytest.approx(value, abs=1e-2) for name, value in last.items()}
