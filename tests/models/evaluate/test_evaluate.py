"""python -m models.evaluate: the run's own numbers come out, they are kept beside it, and wrong input is said."""

import errno
import os
import tempfile

import numpy as np
import pytest
import torch

from models.evaluate.accuracy import Accuracy, calibration, confusion_of
from models.evaluate.evaluation_log import read_evaluations
from pipeline.errors import InputError
from tests.conftest import rows


def test_the_runs_own_test_accuracy_comes_out_and_is_kept(trained, asked, capsys):
    folder = trained("supervised:digits")
    asked("accuracy", folder, "--data.file", "test.beton", "--batch", 64)
    (said,) = (row["values"] for row in rows(folder) if row.get("evaluation") == "test")
    kept = read_evaluations(folder)[-1]
    assert (kept["evaluator"], kept["step"], kept["checkpoint"]) == ("accuracy", 12, "last.pt")
    assert kept["values"]["top1"] == pytest.approx(said["top1"])
    assert kept["values"]["top5"] == pytest.approx(said["top5"])
    assert kept["values"]["images"] == 300
    assert f"top1                     {100 * said['top1']:.1f} %" in capsys.readouterr().out
    assert "Confusions" in (folder / "evaluate-accuracy.html").read_text()


def test_a_run_folder_that_takes_no_file_is_refused_before_anything_is_measured(trained, asked, monkeypatch):
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # root may write wherever a disk does
    monkeypatch.setattr(Accuracy, "run", lambda self, loaded: pytest.fail("it was measured"))
    with pytest.raises(InputError, match=r"results are kept .*: nothing can be written in .*\(Read-only") as refused:
        asked("accuracy", trained("supervised:digits"), "--data.file", "test.beton", "--batch", 64)
    assert "\n" not in str(refused.value)


def test_calibration_is_the_slow_loop():
    g = torch.Generator().manual_seed(0)
    probabilities, labels = torch.randn(400, 6, generator=g).mul(2).softmax(1), torch.randint(0, 6, (400,), generator=g)
    error = 0.0
    for low in range(10):
        inside = [i for i in range(400) if low / 10 < probabilities[i].max() <= (low + 1) / 10]
        if inside:
            sure = np.mean([probabilities[i].max() for i in inside])
            right = np.mean([int(probabilities[i].argmax() == labels[i]) for i in inside])
            error += len(inside) / 400 * abs(sure - right)
    assert calibration(probabilities, labels, 10)[0] == pytest.approx(error, abs=1e-6)
    assert sum(n for n, _, _ in calibration(probabilities, labels, 10)[1]) == 400


def test_confident_and_right_is_calibrated_and_confident_and_wrong_is_not():
    sure = torch.eye(3)
    assert calibration(sure, torch.arange(3))[0] == 0
    assert calibration(sure, torch.tensor([1, 2, 0]))[0] == 1


def test_confusion_counts_true_by_predicted():
    confusion = confusion_of(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0]), 3)
    assert confusion.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(("recipe", "argv", "said"), [
    (None, ["acuracy", "x"], "'acuracy'; did you mean accuracy"),
    (None, ["accuracy"], "expected a run folder"),
    (None, ["accuracy", "/nowhere"], "expected a run folder with last.pt"),
    ("mae:digits", ["accuracy"], "has no classifier; measure it with knn"),
    ("supervised:digits", ["accuracy", "--data.file", "other.beton"], "other.beton: no such file"),
    ("supervised:digits", ["accuracy", "--device", "cuda"], "no GPU is visible"),
    ("supervised:digits", ["accuracy", "--bins", "0"], "--bins is 0, expected at least 1"),
    ("supervised:digits", ["accuracy", "--data.threads", "0"], "--data.threads is 0, expected at least 1"),
])  # fmt: skip
def test_wrong_input_is_said(recipe, argv, said, trained, asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=said):
        asked(argv[0], *([trained(recipe)] if recipe else []), *argv[1:])


def test_data_of_other_classes_are_said(trained, asked, digits, tmp_path):
    from PIL import Image

    from pipeline.convert.conversion import Options, convert

    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "in" / name / "a.jpg")
    convert(tmp_path / "in", tmp_path / "val.beton", Options(side=None))
    with pytest.raises(InputError, match=r"2 classes \(cat, dog\), .* tells 10 apart \(0, 1, 2, \.\.\.\)"):
        asked("accuracy", trained("supervised:digits"), "--data.root", tmp_path)


def test_without_a_name_it_lists_what_there_is(asked, capsys):
    asked()
    assert "accuracy" in capsys.readouterr().out
