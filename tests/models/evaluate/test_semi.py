"""python -m models.evaluate semi: a row a method, hidden labels stay hidden, and wrong input is said."""

import shutil

import pytest

from models.evaluate.evaluation_log import read_evaluations
from models.evaluate.result_columns import columns_of, recorded_evaluations
from models.evaluate.semi import Semi
from pipeline.errors import InputError
from pipeline.labels.splits import Tail, known_labels, make_split, save_split
from pipeline.store.beton import open_beton
from tests.test_train import _with_permuted_labels

METHODS = "knn", "logistic", "graph", "mixture"


@pytest.fixture
def run(trained, tmp_path):
    """The checkpoint of a tiny run, in a folder of its own."""
    (tmp_path / "run").mkdir()
    shutil.copy(trained("supervised:digits") / "last.pt", tmp_path / "run")
    return tmp_path / "run"


def test_a_row_a_method_is_printed_and_kept(run, asked, capsys):
    asked("semi", run, "--data.threads", 1)
    said = capsys.readouterr().out
    (row,) = read_evaluations(run)
    values = row["values"]
    assert values["known"] == 50
    assert values["unlabelled"] == 1147
    for method in METHODS:
        for file in ("val", "test"):
            name = f"{method}_{file}"
            assert values[f"{name}_low"] < values[name] < values[f"{name}_high"]
            assert values[name] > 0.1  # chance, for ten classes
            assert f"{100 * values[name]:.1f} %" in said
        assert values[f"{method}_seconds"] >= 0
    lines = [line for line in said.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].split()[0] for line in lines[2:]] == ["k", "logistic", "label", "Gaussian"]
    assert "50 labelled and 1,147 unlabelled images" in said
    assert "chosen on held-out labels" in (run / "evaluate-semi.html").read_text()
    (numbers,) = recorded_evaluations([run])
    assert ("semi", "knn_val") in columns_of([numbers])
    assert ("semi", "known") not in columns_of([numbers])


def test_the_second_call_reads_the_features_and_measures_the_same(run, asked, capsys):
    asked("semi", run, "--data.file", "test.beton", "--most", 200)
    first = capsys.readouterr().out
    assert "50 labelled and 150 unlabelled images (997 more are left out: --most 200)" in first
    assert first.count("kept in") == 2
    asked("semi", run, "--data.file", "test.beton", "--most", 200)
    assert capsys.readouterr().out.count("read from") == 2
    before, after = ({k: v for k, v in row["values"].items() if "seconds" not in k} for row in read_evaluations(run))
    assert before == after
    assert {key for key in before if key.endswith("_val")} == set()


def test_no_image_is_learned_from_that_the_split_leaves_out_of_the_unlabelled_ones(
    run, asked, digits, tmp_path, capsys
):
    root = shutil.copytree(digits, tmp_path / "data")
    beton = open_beton(root / "train.beton")
    split = make_split(beton, per_class=5, tail=Tail(unlabelled_per_class=3))
    save_split(beton, split)
    ids, _ = Semi().drawn(beton, known_labels(beton, split), split.unlabelled)
    assert ids.tolist() == sorted([*split.labelled, *split.unlabelled])
    asked("semi", run, "--data.root", root, "--split", split.name, "--data.file", "val.beton")
    assert "50 labelled and 30 unlabelled images\n" in capsys.readouterr().out


def test_hidden_labels_cannot_be_seen(run, asked, digits, tmp_path, capsys):
    """Permute every label of the training file that the split hides: the same numbers; permute the known: others."""
    import numpy as np

    from pipeline.labels.splits import load_split

    beton = open_beton(digits / "train.beton")
    known = load_split(beton, "5-per-class").labelled
    hidden = np.setdiff1d(np.arange(beton.n), known)
    for name, ids in {"as it is": known[:0], "hidden": hidden, "shown": known}.items():
        root = _with_permuted_labels(digits, tmp_path / name, ids)
        asked("semi", run, "--data.root", root, "--split", "5-per-class", "--most", 300, "--data.file", "val.beton")
    first, second, third = (
        {k: v for k, v in row["values"].items() if "seconds" not in k} for row in read_evaluations(run)
    )
    assert first == second
    assert first != third


@pytest.mark.parametrize(("flags", "said"), [
    (["--most", 0], "--most is 0, expected at least 1"),
    (["--most", 49], "50 known labels, more than --most 49"),
    (["--split", "nothing"], "has no split 'nothing'"),
    (["--data.file", "train.beton"], "would be compared with itself"),
    (["--pool", "map"], "--pool"),
])  # fmt: skip
def test_what_cannot_be_measured_is_said(flags, said, run, asked):
    with pytest.raises(InputError, match=said):
        asked("semi", run, *flags)
    assert read_evaluations(run) == []
