"""python -m models.predict --next: what to label next, of files and of the run's own images, and bad input."""

import csv
import shutil
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from models import predict
from models.active import next_labels
from models.load import load_run
from pipeline.errors import InputError
from pipeline.labels.splits import Tail, known_labels, load_split, make_split, save_split
from pipeline.store.beton import open_beton
from pipeline.store.sample_names import read_names

N = 60


@pytest.fixture(scope="module")
def files(tmp_path_factory, digits):
    """Some test images as files."""
    folder, beton = tmp_path_factory.mktemp("files"), open_beton(digits / "test.beton")
    for i in range(N):
        (folder / f"{i:03d}.jpg").write_bytes(beton.jpeg(i).tobytes())
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """copy(recipe): the checkpoint of a tiny run, in a folder of its own."""

    def copy(recipe: str):
        folder = tmp_path / recipe.replace(":", "-")
        folder.mkdir()
        shutil.copy(trained(recipe) / "last.pt", folder)
        return folder

    return copy


def asked(monkeypatch, *argv: object) -> int:
    monkeypatch.setattr(sys, "argv", ["models.predict", *map(str, argv)])
    return predict.main()


def table(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_files_are_named_in_order_with_reason_class_and_picture(run, files, tmp_path, monkeypatch, capsys):
    folder, out = run("supervised:digits"), tmp_path / "next.csv"
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "bad.jpg").write_bytes(b"no")
    assert asked(monkeypatch, folder, files, tmp_path / "more", "--next", 7, "--out", out, "--threads", 1) == 0
    found = table(out)
    assert [row["number"] for row in found] == list("1234567")
    assert len({row["file"] for row in found}) == 7
    assert {row["file"] for row in found} <= {str(path) for path in files.iterdir()}
    assert set(found[0]) == {"number", *next_labels.HEADER}
    for row in found:
        assert row["reason"] in ("typical", "uncertain")
        assert bool(row["typicality"]) == (row["reason"] == "typical")
        assert row["class"] in "0123456789"
        assert 0 <= float(row["margin"]) <= float(row["confidence"]) <= 1
    said = capsys.readouterr()
    assert f"{out}: 7 images of 60 to label next" in said.out
    assert f"left out: {tmp_path}/more/bad.jpg: not an image" in said.err
    with Image.open(tmp_path / "next.png") as picture:
        assert picture.size[0] > 5 * 160
    assert asked(monkeypatch, folder, *(row["file"] for row in found), "--out", tmp_path / "p.csv") == 0
    predicted = {row["file"]: row for row in table(tmp_path / "p.csv")}
    assert {row["file"]: (row["class"], row["confidence"]) for row in found} == {
        name: (row["class"], row["confidence"]) for name, row in predicted.items()
    }


def test_of_the_runs_own_images_only_those_without_a_known_label_are_named(run, digits, tmp_path, monkeypatch, capsys):
    folder, out = run("supervised:digits"), tmp_path / "next.csv"
    data = load_run(folder).recipe.data
    beton = open_beton(digits / data.train)
    known = known_labels(beton, load_split(beton, data.split)).ids
    names = read_names(beton)
    assert asked(monkeypatch, folder, "--next", 12, "--out", out, "--threads", 1) == 0
    found = [row["file"] for row in table(out)]
    assert len(set(found)) == 12
    assert set(found) <= {names[i] for i in np.setdiff1d(np.arange(beton.n), known)}
    first = capsys.readouterr().out
    assert "12 images of 1,147 to label next" in first
    assert "kept in" in first
    assert asked(monkeypatch, folder, "--next", 12, "--out", out, "--threads", 1) == 0
    assert [row["file"] for row in table(out)] == found
    assert "kept in" not in capsys.readouterr().out


def test_a_run_without_a_classifier_names_typical_images_alone(run, files, tmp_path, monkeypatch):
    out = tmp_path / "next.csv"
    assert asked(monkeypatch, run("mae:digits"), files, "--next", N, "--out", out, "--threads", 1) == 0
    found = table(out)
    assert Counter(row["reason"] for row in found) == {"typical": N}
    assert {row["class"] + row["margin"] + row["confidence"] for row in found} == {""}


def test_one_image_is_the_one_to_label(run, files, tmp_path, monkeypatch):
    image = min(files.iterdir())
    assert asked(monkeypatch, run("supervised:digits"), image, "--next", 1, "--out", tmp_path / "n.csv") == 0
    assert [row["file"] for row in table(tmp_path / "n.csv")] == [str(image)]
    with Image.open(tmp_path / "n.png") as picture:
        assert picture.size[0] < 2 * 160


@pytest.mark.parametrize(("more", "said"), [
    (["--next", 0], "--next: expected 1 or more images, got 0"),
    (["--next", -3], "--next: expected 1 or more images, got -3"),
    (["--next", N + 1], f"--next {N + 1}: there are {N} images to choose from; ask for {N} or fewer"),
    (["--next", 3, "--top", 2], "--next names one class of each image, got --top 2"),
    (["--next", 3, "--out", "a.png"], "a.png: expected the name of a CSV"),
    (["--next", 3, "--out", "/nowhere/n.csv"], "expected an existing folder"),
])  # fmt: skip
def test_what_cannot_be_answered_is_said_and_nothing_is_written(more, said, trained, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        asked(monkeypatch, trained("supervised:digits"), files, *more)
    assert list(tmp_path.glob("*.csv")) + list(tmp_path.glob("*.png")) == []


def test_without_images_or_next_and_of_files_that_are_no_images(trained, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="expected images"):
        asked(monkeypatch, trained("supervised:digits"))
    (tmp_path / "bad.jpg").write_bytes(b"no")
    with pytest.raises(InputError, match="none of them is an image that can be read"):
        asked(monkeypatch, trained("supervised:digits"), tmp_path, "--next", 1, "--out", tmp_path / "n.csv")


def test_no_image_is_asked_about_that_the_split_leaves_out_of_the_unlabelled_ones(run, digits, tmp_path):
    root, folder = shutil.copytree(digits, tmp_path / "data"), run("supervised:digits")
    beton = open_beton(root / "train.beton")
    split = make_split(beton, per_class=5, tail=Tail(unlabelled_per_class=3))
    save_split(beton, split)
    loaded = load_run(folder)
    data = replace(loaded.recipe.data, root=str(root), split=split.name, threads=1)
    loaded = replace(loaded, recipe=replace(loaded.recipe, data=data))
    asking = next_labels.NextLabels(loaded, data, 64)
    assert asking.own().ids.tolist() == split.unlabelled.tolist()
