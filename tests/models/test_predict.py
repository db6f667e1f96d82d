"""Predictions of image files: the run's own accuracy comes out of the CSV, and what cannot be answered is said."""

import csv
import os
import sys

import numpy as np
import pytest

from models import predict
from pipeline.convert.conversion import Options, convert
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


def test_all_that_is_left_out_is_named_and_counted_and_every_image_is_predicted(
    trained, files, tmp_path, monkeypatch, capsys
):
    """Whatever the files are called; the same files, and the same reasons, as a conversion's."""
    folder, blob = tmp_path / "in" / "some", min(files.iterdir()).read_bytes()
    folder.mkdir(parents=True)
    for name in ("a.jpg", "b", "c.jpg_large", "d.HEIC", "e.JPG", "f.txt"):
        (folder / name).write_bytes(blob)
    for i in range(8):
        (folder / f"bad{i}.jpg").write_bytes(b"no")
    (folder / "notes.txt").write_text("a note")
    (folder / ".hidden").write_text("x")
    os.mkfifo(folder / "pipe.jpg")
    with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb") as file:
        file.write(blob)
    out = tmp_path / "p.csv"
    assert asked(monkeypatch, trained("supervised:digits"), tmp_path / "in", "--out", out) == 0
    assert [row["file"] for row in table(out)] == [
        f"{folder}/{name}" for name in ("a.jpg", "b", "c.jpg_large", r"caf\xe9.jpg", "d.HEIC", "e.JPG", "f.txt")
    ]
    assert len({row["class"] for row in table(out)}) == 1
    said = capsys.readouterr()
    assert "7 images in" in said.out
    assert said.out.strip().endswith("11 left out")
    assert "left out, since they are no images: 1 .txt, 1 hidden" in said.err
    manifest = convert(tmp_path / "in", tmp_path / "a.beton", Options(max_bad=1))
    assert len(manifest.rejected) == 9
    for name, reason in manifest.rejected:
        assert f"left out: {tmp_path}/in/{name}: {reason}\n" in said.err


def test_a_file_named_itself_is_read_whatever_its_name_and_one_that_is_no_image_is_left_out(
    trained, files, tmp_path, monkeypatch, capsys
):
    (tmp_path / "photo.txt").write_bytes(min(files.iterdir()).read_bytes())
    (tmp_path / "notes.txt").write_text("a note")
    os.mkfifo(tmp_path / "pipe")
    named = [tmp_path / name for name in ("photo.txt", "notes.txt", "pipe")]
    assert asked(monkeypatch, trained("supervised:digits"), *named, "--out", tmp_path / "p.csv") == 0
    assert [row["file"] for row in table(tmp_path / "p.csv")] == [str(tmp_path / "photo.txt")]
    said = capsys.readouterr()
    assert f"left out: {tmp_path}/notes.txt: not an image\n" in said.err
    assert f"left out: {tmp_path}/pipe: a FIFO, expected a regular file\n" in said.err
    assert said.out.strip().endswith("2 left out")


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
    ("supervised:digits", ["--out", "/proc/p.csv"], "nothing can be written in /proc"),
    ("supervised:digits", ["--out", "/tmp"], "/tmp is a folder, expected a file to write"),
    ("supervised:digits", ["--window", "9", "3"], "--window: expected two numbers, the lower first"),
    ("supervised:digits", ["--max-pixels", "0"], "--max-pixels: expected 1 to"),
])  # fmt: skip
def test_what_cannot_be_answered_is_said(recipe, more, said, trained, files, monkeypatch):
    with pytest.raises(InputError, match=said):
        asked(monkeypatch, trained(recipe), files, *more)


def test_nothing_is_written_where_no_file_is_an_image(trained, tmp_path, monkeypatch):
    (tmp_path / "bad.jpg").write_bytes(b"no")
    with pytest.raises(InputError, match="of 1 file none is an image"):
        asked(monkeypatch, trained("supervised:digits"), tmp_path, "--out", tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()
