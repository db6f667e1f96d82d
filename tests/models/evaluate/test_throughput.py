"""The cost table: hours and ratios by hand, SupMAE's own table, lengths in closed form, and a run measured."""

from dataclasses import replace

import pytest
import torch

from models.bench.step_time import StepCost
from models.bench.timing import StepTime
from models.config.resolve import named
from models.evaluate import __main__ as evaluate
from models.evaluate.evaluation_log import read_evaluations
from models.evaluate.throughput import Throughput, joined
from models.evaluate.training_cost import Stage, figures, page
from models.load import load_run
from models.records.metrics import read
from pipeline.errors import InputError

QUICK = ["--rounds", "1", "--repeat", "1", "--step-images", "8", "--batch", "4", "--device", "cpu"]
COST = StepCost(10, [StepTime(2.0, 1.0)], 1.5)


def measured(folder, *flags: str) -> dict:
    evaluate.measure("throughput", str(folder), [*QUICK, *flags])
    return read_evaluations(folder)[-1]


def test_supmaes_table_comes_out_of_its_hours():
    """MAE 364 + 30, MoCo v3 250 + 45.7, DeiT 91.5 hours, SupMAE 95.9 + 30: 3.12, 2.35 and 0.73 times."""
    hours = {"supmae": [95.9, 30.0], "mae": [364.0, 30.0], "mocov3": [250.0, 45.7], "deit": [91.5]}
    work_s = {name: 3600 * sum(each) for name, each in hours.items()}
    values = figures(COST, COST, hours, work_s)
    assert values["hours"] == pytest.approx(125.9)
    assert values["cost_mae"] == pytest.approx(3.12, abs=0.015)
    assert values["cost_mocov3"] == pytest.approx(2.35, abs=0.005)
    assert values["cost_deit"] == pytest.approx(0.73, abs=0.005)
    assert values["train_images_per_s"] == 5.0
    assert "memory_gb" not in values
    _, totals, _ = page([], COST, hours, work_s, 0.0)
    assert totals.rows[1] == ("mae", "364.00 + 30.00", "3.13x")


def test_a_run_is_measured_beside_its_journal_and_another_recipe(trained):
    folder = trained("supervised:digits")
    row = measured(folder, "--against", "mae:digits")
    values = row["values"]
    steps = 12  # of the tiny run, which counts in steps of 32 images
    assert values["hours"] == pytest.approx(steps * 32 / values["train_images_per_s"] / 3600)
    rates = sorted(
        each["timing"]["images_per_s"] for each in read(folder) if each.get("timing", {}).get("images_per_s")
    )
    assert rates[0] <= values["journal_images_per_s"] <= rates[-1]
    assert values["cost_mae:digits"] > 1  # the real recipe's many steps
    assert values["inference_gflops"] < values["train_gflops"]
    assert row["machine"]["device"].startswith("CPU")
    assert "torch" in row["machine"]
    written = (folder / "evaluate-throughput.html").read_text()
    for said in ("normalised cost", "mae:digits", "measured on", "own journal"):
        assert said in written


@pytest.mark.parametrize(("recipe", "images_per_forward"), [("probe:digits", 1.0), ("semiformer:digits", None)])
def test_heads_that_are_no_single_layer_are_measured(recipe, images_per_forward, trained):
    """A probe's step is a forward pass and twice a small matrix; a Semiformer's two heads are counted as they run."""
    values = measured(trained(recipe))["values"]
    assert values["inference_gflops"] > 0
    ratio = values["train_gflops"] / values["inference_gflops"]
    assert ratio == pytest.approx(images_per_forward, rel=0.01) if images_per_forward else ratio > 2


def test_hours_and_work_are_steps_times_batch_times_what_an_image_takes():
    recipe = named("mae:digits")
    stage = Stage("x", recipe, None, steps=100)
    assert stage.hours(COST) == pytest.approx(100 * recipe.data.batch * 2.0 / 10 / 3600)
    assert stage.work_s(COST) == pytest.approx(100 * recipe.data.batch * 1.0 / 10)


@pytest.mark.parametrize(("names", "parts"), [
    ("mae:digits+runs/two", ["mae:digits", "runs/two"]),
    ("mae:digits --optim.epochs 3 + probe:digits", ["mae:digits --optim.epochs 3", "probe:digits"]),
    ("mae:digits --optim.lr=1e+3+probe:digits", ["mae:digits --optim.lr=1e+3", "probe:digits"]),
    ("runs/base+2nd", ["runs/base", "2nd"]),
])  # fmt: skip
def test_what_follows_is_split_off_at_a_plus_that_is_no_numbers(names: str, parts: list[str]) -> None:
    assert joined(names) == parts


def test_a_recipe_to_compare_with_may_have_flags(trained):
    """900 steps of 128 images each cost half of 1,800, whatever one costs; the recipe's name alone stays as it was."""
    device = torch.device("cpu")
    halved, whole = (Throughput().stages(f"mae:digits{flags}", device) for flags in (" --optim.epochs 900", ""))
    assert [each.steps for each in (*halved, *whole)] == [900, 1800]
    other = "mae:digits --optim.epochs 900 + probe:digits --optim.epochs=150"
    assert measured(trained("mae:digits"), "--against", other)["values"][f"cost_{other}"] > 1


def test_stages_that_follow_are_added_and_checkpoints_can_be_compared_with(trained):
    folder, other = trained("mae:digits"), trained("supervised:digits")
    values = measured(folder, "--then", str(other), "--against", f"{folder}+{other}")["values"]
    alone = measured(folder)["values"]
    assert values["hours"] > 0
    assert alone["hours"] > 0
    assert f"cost_{folder}+{other}" in values


def test_lengths_are_those_of_the_data_that_is_said():
    """ImageNet's 1,281,167 images in batches: epochs of images / batch steps, fractions added up over the run."""
    recipe = named("mae:in1k_b16")
    asked = Throughput(train_images=1_281_167)
    assert asked.length(recipe).total_steps == int(recipe.optim.epochs * 1_281_167 / recipe.data.batch + 1e-6)
    known = named("supmae:in1k_b16")
    half = replace(asked, train_labelled=640_000)
    assert half.length(known).total_steps == int(known.optim.epochs * 640_000 / known.data.batch + 1e-6)
    with pytest.raises(InputError, match=r"train.beton is not here; say --train-images N"):
        Throughput().length(recipe)


def test_pass_rates_and_steps_on_labels_alone_are_the_journals(tmp_path, tiny):
    """4 of 12 steps of 32 images on labels: two stages, and the mean share of the journal's rows."""
    assert tiny("fixmatch:digits", tmp_path, "--optim.labels-only-epochs=4", "--method.pseudo.threshold=0.1") == 0
    passed = [row["pseudo"]["passed"] for row in read(tmp_path) if row.get("pseudo")]
    values = measured(tmp_path, "--against", "semi_mae:digits", "--passed", "0.25")["values"]
    assert values["passed_journal"] == pytest.approx(sum(passed) / len(passed))
    assert values["passed_journal"] > 0.5
    assert values["passed_assumed_semi_mae:digits"] == 0.25
    written = (tmp_path / "evaluate-throughput.html").read_text()
    for said in ("<td>25.0 %, assumed</td>", "%, journal</td>", "fixmatch:digits, labels only"):
        assert said in written
    loaded = load_run(tmp_path, torch.device("cpu"))
    assert [(each.steps, each.labels_only) for each in Throughput().own(loaded)] == [(8, False), (4, True)]
    (tmp_path / "metrics.jsonl").unlink()
    assert [(each.passed, each.passed_from) for each in Throughput().own(loaded)] == [
        (1.0, "assumed"),
        (None, "assumed"),
    ]


@pytest.mark.parametrize(("flags", "said"), [
    (["--passed", "1.5"], "--passed is 1.5, expected from 0 to 1"),
    (["--rounds", "0"], "--rounds is 0, expected at least 1"),
    (["--step-images", "0"], "--step_images is 0, expected at least 1"),
    (["--train-labelled", "5"], "expected --train-images of as many or more"),
    (["--against", "mae:digit"], "did you mean mae:digits"),
    (["--against", "mae:digits --optim.epoch 4"], "has no field --optim.epoch; did you mean --optim.epochs"),
    (["--against", "mae:digits 'x"], "No closing quotation"),
    (["--against", "tests --optim.epochs 4"], "tests is a run, and was trained with its own settings"),
    (["--against", "supervised:digits"], "is the run itself, or there twice"),
])  # fmt: skip
def test_what_cannot_be_measured_is_said(flags, said, trained):
    with pytest.raises(InputError, match=said):
        measured(trained("supervised:digits"), *flags)
