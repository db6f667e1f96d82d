"""Predictions of image files: the run's own accuracy comes out of the CSV, and what cannot be answered is said."""

import csv
import sys

import numpy as np
import pytest

from models import predict
from pipeline.errors import InputError
from pipeline.labels.splits import known_labels
from pipeline.store.beton import open_beton
from tests.conftest import rows

N = 300


@pytest.fixture(scope="module")
def files(tmp_path_factory, digits):
    """The test images as the files that they were made of, called label_number.jpg."""
    folder, beton = tmp_path_factory.mktemp("files"), open_beton(digits / "test.beton")
    labels = known_labels(beton, None)[np.arange(N)]
    for i, label in enumerate(labels):
        (folder / f"{label}_{i:03d}.jpg").write_bytes(beton.jpeg(i).tobytes())
    return folder


def asked(monkeypatch, *argv: object) -> int:
    monkeypatch.setattr(sys, "argv", ["models.predict", *map(str, argv)])
    return predict.main()


def table(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "recipe", ["supervised:digits", "probe:digits", "finetune:digits_blocks/1", "semiformer:digits"]
)
def test_the_runs_test_accuracy_comes_out_of_the_csv(recipe, trained, files, tmp_path, monkeypatch, capsys):
    folder = trained(recipe)
    assert asked(monkeypatch, folder, files, "--out", tmp_path / "p.csv", "--batch", 64) == 0
    found = table(tmp_path / "p.csv")
    assert [row["file"] for row in found] == sorted(str(path) for path in files.iterdir())
    right = np.mean([row["file"].rpartition("/")[2][0] == row["class"] for row in found])
    (said,) = (row["values"]["top1"] for row in rows(folder) if row.get("evaluation") == "test")
    assert right == pytest.approx(said)
    assert all(0.1 <= float(row["confidence"]) <= 1 for row in found)
    assert "300 images in" in capsys.readouterr().out


def test_several_guesses_fall_in_confidence_and_all_classes_sum_to_one(trained, files, tmp_path, monkeypatch):
    image = min(files.iterdir())
    assert asked(monkeypatch, trained("supervised:digits"), image, "--out", tmp_path / "p.csv", "--top", 10) == 0
    (row,) = table(tmp_path / "p.csv")
    sure = [float(row[f"confidence_{i}"]) for i in range(1, 11)]
    assert sure == sorted(sure, reverse=True)
    assert sum(sure) == pytest.approx(1, abs=1e-5)
    assert {row[f"class_{i}"] for i in range(1, 11)} == set("0123456789")


def test_files_that_are_no_images_are_named_and_left_out(trained, files, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"no")
    image = min(files.iterdir())
    assert asked(monkeypatch, trained("supervised:digits"), tmp_path, image, "--out", tmp_path / "p.csv") == 0
    assert [row["file"] for row in table(tmp_path / "p.csv")] == [str(image)]
    assert f"left out: {tmp_path / 'bad.jpg'}: not an image" in capsys.readouterr().err


@pytest.mark.parametrize(("recipe", "more", "said"), [
    ("mae:digits", [], "has no classifier; fine-tune it first"),
    ("supervised:digits", ["--top", 11], "--top from 1 to 10"),
    ("supervised:digits", ["--out", "/nowhere/p.csv"], "expected an existing folder"),
])  # fmt: skip
def test_what_cannot_be_answered_is_said(recipe, more, said, trained, files, monkeypatch):
    with pytest.raises(InputError, match=said):
        asked(monkeypatch, trained(recipe), files, *more)


def test_nothing_is_written_where_no_file_is_an_image(trained, tmp_path, monkeypatch):
    (tmp_path / "bad.jpg").write_bytes(b"no")
    with pytest.raises(InputError, match="none of 1 files is an image"):
        asked(monkeypatch, trained("supervised:digits"), tmp_path, "--out", tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()
