"""Balanced accuracy and recall of each class: scikit-learn's, in the journal, the report and the evaluator."""

import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, recall_score

from models.config.resolve import resolve
from models.distributed.process_group import World
from models.evaluate.accuracy import hits
from models.evaluate.compare import summary_of
from models.evaluate.evaluation_log import read_evaluations
from models.evaluate.result_columns import Column
from models.evaluate.validator import Validator
from models.load import load_run
from models.records.metrics import check_row
from models.reporting import figures
from models.reporting.report import write_report
from models.tracking.journal import _numbers
from pipeline.labels.long_tail import uneven
from pipeline.labels.splits import Tail, make_split, save_split
from pipeline.store.beton import open_beton
from tests.conftest import rows
from tests.models.evaluate.test_accuracy import Known, images

ALONE = World(0, 1, 0, torch.device("cpu"))
SHORT = ["--optim.epochs=6", "--optim.warmup-epochs=0", "--run.evaluate-steps=3", "--optim.ema-decay=0.5"]


@pytest.fixture(scope="module")
def data(digits, tmp_path_factory):
    """The digits with a long-tailed split."""
    root = tmp_path_factory.mktemp("balanced") / "digits"
    shutil.copytree(digits, root)
    train = open_beton(root / "train.beton")
    save_split(train, make_split(train, per_class=4, tail=Tail(4)))
    return root


def test_right_answers_of_each_class_are_scikit_learns_recall():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(60, 5, generator=generator), torch.randint(4, (60,), generator=generator)
    scores[:, 4] = -1  # a class that no image has, and that is never predicted
    found = hits(Known(scores), images(60).split(7), labels, classes=5)
    predicted = scores.argmax(1)
    per_class = np.bincount(labels, minlength=5)
    recall = recall_score(labels, predicted, average=None, labels=range(4))
    assert (found[3:7].numpy() / per_class[:4]).tolist() == pytest.approx(recall.tolist())
    assert found[7] == 0
    assert found[3:].sum() == found[0] == hits(Known(scores), images(60).split(7), labels)[0]
    assert np.mean(recall) == pytest.approx(balanced_accuracy_score(labels, predicted))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((5, 5, 5), False), ((9, 5), False), ((10, 5), True), ((10, 0, 10), False), ((0, 0), False), ((), False)],
)
def test_classes_are_uneven_from_twice_as_many_on(counts, expected):
    assert uneven(counts) is expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], False),
        (["--method.balance.kind=weights"], True),
        (["--run.best=balanced"], True),
        (["--run.best=top1"], False),
        (["--run.best=balanced_raw", "--run.judge=both"], True),
        (["--data.split=None"], False),
        (["--data.split=4-per-class-imbalance4"], True),
    ],
)
def test_balanced_accuracy_is_said_where_it_may_differ_from_top1(flags, expected, data):
    train = open_beton(data / "train.beton")
    recipe = resolve("supervised:digits", [f"--data.root={data}", *flags])
    validator = Validator(recipe, "val.beton", train, ALONE)
    assert validator.balanced is expected
    assert ("balanced" in validator.names) is expected
    assert ("balanced_raw" in validator.names) is (expected and "--run.judge=both" in flags)
    assert not Validator(resolve("mae:digits", [f"--data.root={data}"]), "val.beton", train, ALONE).balanced


@pytest.fixture
def long_tailed(tiny, data):
    """A run on a long tail that keeps the checkpoint with the best balanced accuracy; trained once."""
    folder = data / "run"
    if not folder.exists():
        flags = [f"--data.root={data}", "--data.split=4-per-class-imbalance4", "--method.balance.kind=logit_adjustment"]
        flags += ["--run.best=balanced_raw", "--run.judge=both"]
        assert tiny("supervised:digits", folder, *SHORT, *flags) == 0
    return folder


def test_the_journal_has_the_recall_of_each_class_and_best_goes_by_its_mean(long_tailed):
    found = [row for row in rows(long_tailed) if "evaluation" in row]
    assert [(row["step"], row["evaluation"]) for row in found] == [(3, "val"), (6, "val"), (6, "test")]
    for row in found:
        assert list(row["values"]) == [f"{name}{raw}" for raw in ("", "_raw") for name in ("top1", "top5", "balanced")]
        for raw in ("", "_raw"):
            assert len(row[f"recall{raw}"]) == 10
            assert np.mean(row[f"recall{raw}"]) == pytest.approx(row["values"][f"balanced{raw}"])
            assert row["values"][f"balanced{raw}"] == pytest.approx(row["values"][f"top1{raw}"])  # 30 images of each
    events = [json.loads(line) for line in (long_tailed / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "done"
    first, last = (row["values"]["balanced_raw"] for row in found[:2])
    assert load_run(long_tailed / "best.pt").step == (6 if last > first else 3)
    summary = summary_of(long_tailed, {})
    assert summary.numbers[Column("test", "balanced")] == found[-1]["values"]["balanced"]


def test_the_report_shows_recall_beside_the_labels(tmp_path):
    journal = [{"step": 1, "evaluation": "val", "values": {}, "recall": [0.25, None, 0.125]}]
    journal += [{"step": 2, "evaluation": "val", "values": {}, "recall": [0.75, None, 0.5], "recall_raw": [0, 0, 0]}]
    journal += [{"step": 2, "evaluation": "test", "values": {}, "recall": [0, 0, 0]}]
    named = {"recipe_name": "supervised:digits", "final": [], "pictures": [], "verdict": "", "class_names": "abc"}
    write_report(tmp_path, rows=journal, label_counts=[9, 4, 1], **named)
    text = (tmp_path / "report.md").read_text()
    assert "Recall per class" in text
    _, table = text.split("| class, lowest recall first | known labels | recall on val |")
    assert [line for line in table.splitlines() if line.startswith(("| a", "| b", "| c"))] == [
        "| c | 1 | 50.0 % |",
        "| a | 9 | 75.0 % |",
    ]
    for row in journal:
        del row["recall"]
    write_report(tmp_path, rows=journal[:1], label_counts=[9, 4, 1], **named)
    assert "Recall per class" not in (tmp_path / "report.md").read_text()


def test_the_evaluator_has_the_same_numbers_and_the_labels_of_each_class(long_tailed, asked):
    asked("accuracy", long_tailed, "--data.file", "test.beton")
    values = read_evaluations(long_tailed)[-1]["values"]
    (said,) = (row for row in rows(long_tailed) if row.get("evaluation") == "test")
    assert values["balanced"] == pytest.approx(said["values"]["balanced"])
    assert values["lowest_recall"] == pytest.approx(min(said["recall"]))
    page = (long_tailed / "evaluate-accuracy.html").read_text()
    assert "labels learned from" in page
    assert "Recall per class" in page


def test_rows_with_something_else_than_shares_are_damaged():
    row = {"step": 1, "evaluation": "val", "values": {"top1": 0.5}}
    assert check_row(row | {"recall": [0.5, None, 1]}) is None
    assert check_row(row) is None
    assert check_row(row | {"recall": [0.5, "1"]}) == "recall holds what is no number"
    assert check_row(row | {"recall_raw": [[0.5]]}) == "recall_raw holds what is no number"
    assert "recall is float, expected list" in check_row(row | {"recall": 0.5})
    assert dict(_numbers(row | {"recall": [0.5, None], "epoch": 2})) == {"val/top1": 0.5, "epoch": 2.0}


def test_recall_is_drawn_for_few_and_many_classes_and_not_for_none():
    assert figures.recalls([None, None], [1, 2], ["a", "b"]) is None
    for classes in (2, 60):
        shares = [None, *(0.5,) * (classes - 1)]
        png = figures.recalls(shares, [0] * classes, [str(c) for c in range(classes)])
        assert png is not None
        assert png.startswith(b"\x89PNG")
