"""Two runs on the same images: counts of a slow loop, scipy's test, and what cannot be compared."""

import shutil

import numpy as np
import pytest
import torch
from scipy import stats

from models.evaluate.evaluation_log import read_evaluations
from models.evaluate.intervals import wilson
from models.evaluate.result_columns import Column, recorded_evaluations
from models.load import load_run
from pipeline.errors import InputError
from pipeline.evaluation.sweep import sweep
from pipeline.labels.splits import known_labels
from pipeline.store.beton import open_beton

FLAGS = "--batch", 64, "--device", "cpu"


def right(folder, file) -> np.ndarray:
    """On which images a run's classifier is right, bool [N]."""
    loaded, beton = load_run(folder), open_beton(file)
    labels = known_labels(beton, None)
    ids = np.asarray(labels.ids)
    batches = sweep(loaded.recipe.data, beton, torch.device("cpu"), ids, 100)
    return np.concatenate([loaded.method.logits(each).argmax(1).numpy() for each in batches]) == labels[ids]


@pytest.fixture
def copied(trained, tmp_path):
    """copied(recipe) -> a folder with the run's checkpoint, to write into."""

    def of(recipe, name="run"):
        (tmp_path / name).mkdir()
        shutil.copy(trained(recipe) / "last.pt", tmp_path / name)
        return tmp_path / name

    return of


def test_two_classifiers_are_compared_image_by_image(trained, copied, asked, digits, capsys):
    ours, theirs = copied("supervised:digits"), trained("semi_mae:digits")
    asked("accuracy", ours, "--against", theirs, "--data.file", "test.beton", *FLAGS)
    values = read_evaluations(ours)[-1]["values"]
    mine, other = (right(each, digits / "test.beton") for each in (ours, theirs))
    only, alone = int((mine & ~other).sum()), int((~mine & other).sum())
    assert only + alone > 0
    assert (values["top1_images_only_this"], values["top1_images_only_against"]) == (only, alone)
    assert (values["top1"], values["top1_against"]) == pytest.approx((mine.mean(), other.mean()))
    assert values["top1_difference"] == pytest.approx(mine.mean() - other.mean())
    assert values["top1_difference_low"] < values["top1_difference"] < values["top1_difference_high"]
    assert values["top1_mcnemar_p"] == pytest.approx(stats.binomtest(only, only + alone).pvalue)
    assert (values["top1_low"], values["top1_high"]) == pytest.approx(wilson(int(mine.sum()), len(mine)))
    said = capsys.readouterr().out
    assert f"top1_difference          {100 * values['top1_difference']:+.1f} points" in said
    page = (ours / "evaluate-accuracy.html").read_text()
    assert "McNemar" in page
    assert "95 % interval" in page


def test_a_comparison_is_no_number_of_one_run(copied, trained, asked):
    ours = copied("supervised:digits")
    asked("accuracy", ours, *FLAGS)
    alone = recorded_evaluations([ours])
    asked("accuracy", ours, "--against", trained("semi_mae:digits"), *FLAGS)
    assert recorded_evaluations([ours]) == alone
    assert {Column("accuracy", "top1"), Column("accuracy", "top1_low")} <= alone[0].keys()


def test_without_another_run_only_its_own_numbers_are_there(copied, asked):
    ours = copied("supervised:digits")
    asked("accuracy", ours, *FLAGS)
    named = list(read_evaluations(ours)[-1]["values"])
    assert named == ["images", *(f"{top}{end}" for top in ("top1", "top5") for end in ("", "_low", "_high")),
                     "balanced", "lowest_recall", "calibration_error", "nll"]  # fmt: skip


def test_neighbours_of_two_encoders_are_compared_for_each_k(copied, trained, asked):
    ours, theirs = copied("mae:digits"), trained("simmim:digits")
    asked("knn", ours, "--against", theirs, "--k", 1, 5, *FLAGS)
    both = read_evaluations(ours)[-1]["values"]
    asked("knn", copied("simmim:digits", "theirs"), "--k", 1, 5, *FLAGS)
    other = read_evaluations(ours.parent / "theirs")[-1]["values"]
    for k in (1, 5):
        assert both[f"knn_{k}_against"] == pytest.approx(other[f"knn_{k}"])
        only, alone = both[f"knn_{k}_images_only_this"], both[f"knn_{k}_images_only_against"]
        assert both[f"knn_{k}"] - both[f"knn_{k}_against"] == pytest.approx((only - alone) / both["images"])
        assert both[f"knn_{k}_mcnemar_p"] == pytest.approx(stats.binomtest(int(only), int(only + alone)).pvalue)


def test_the_same_run_twice_is_refused(trained, asked):
    folder = trained("supervised:digits")
    with pytest.raises(InputError, match="is the run itself"):
        asked("accuracy", folder, "--against", folder / "last.pt")


def test_what_is_no_run_or_has_no_classifier_is_said(trained, asked):
    with pytest.raises(InputError, match=r"expected a run folder with last\.pt"):
        asked("accuracy", trained("supervised:digits"), "--against", "/nowhere")
    with pytest.raises(InputError, match="has no classifier; measure it with knn"):
        asked("accuracy", trained("supervised:digits"), "--against", trained("mae:digits"))


def test_other_images_are_refused_and_the_same_file_elsewhere_is_not(copied, trained, asked, digits, tmp_path):
    from models.checkpoint import save_load

    ours, state = copied("supervised:digits"), save_load.load(trained("semi_mae:digits") / "last.pt")
    state["recipe"]["data"]["val"] = "test.beton"
    other = save_load.save(tmp_path / "run", state | {}) and tmp_path / "run"
    ours = copied("supervised:digits", "ours")
    with pytest.raises(InputError, match=r"are different files, and a paired comparison needs the same images") as said:
        asked("accuracy", ours, "--against", other, *FLAGS)
    assert "\n" not in str(said.value)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for each in digits.glob("test.beton*"):
        shutil.copy(each, elsewhere / each.name)
    state["recipe"]["data"]["root"] = str(elsewhere)
    save_load.save(other, state)
    asked("accuracy", ours, "--against", other, "--data.file", "test.beton", *FLAGS)
    assert "top1_mcnemar_p" in read_evaluations(ours)[-1]["values"]


def test_linear_probes_of_two_encoders_are_compared(copied, trained, asked):
    ours, theirs = copied("mae:digits"), copied("simmim:digits", "theirs")
    asked("linear_probe", ours, "--against", theirs, *FLAGS)
    asked("linear_probe", theirs, *FLAGS)
    both, other = (read_evaluations(each)[-1]["values"] for each in (ours, theirs))
    assert both["probe_against"] == pytest.approx(other["probe"])
    only, alone = both["probe_images_only_this"], both["probe_images_only_against"]
    assert both["probe"] - other["probe"] == pytest.approx((only - alone) / both["images"])
    assert both["probe_mcnemar_p"] == pytest.approx(stats.binomtest(int(only), int(only + alone)).pvalue)
