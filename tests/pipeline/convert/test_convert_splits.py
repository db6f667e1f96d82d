"""Splits that are asked for with a conversion: drawn, refused, or gone with the file that they were made for."""

import errno
from pathlib import Path

import pytest

from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.labels.splits import load_split, make_split, save_split, splits
from pipeline.sources.objects import Dataset
from pipeline.sources.source import Files
from pipeline.store.beton import open_beton
from tests.pipeline.conftest import damaged, image, left


def test_a_replaced_file_keeps_the_splits_that_fit_and_loses_the_others(tree, tmp_path):
    for name in ("a", "ab"):
        convert(tree, tmp_path / f"{name}.beton", Options(split=(0.5,)))
    (tmp_path / "a.split-mine.json").write_text("{")  # not ours to remove
    convert(tree, tmp_path / "a.beton", Options(per_class=(2,), overwrite=True))
    assert splits(open_beton(tmp_path / "a.beton")) == ["0.50", "2-per-class", "mine"]  # the same file once more
    convert(tree, tmp_path / "a.beton", Options(seed=1, per_class=(1,), overwrite=True))
    assert splits(open_beton(tmp_path / "a.beton")) == ["1-per-class-1", "mine"]
    assert splits(open_beton(tmp_path / "ab.beton")) == ["0.50"]


def test_a_split_of_another_file_of_that_name_is_refused(tree, tmp_path):
    convert(tree, tmp_path / "a.beton", Options(split=(0.5,)))
    (tmp_path / "a.beton").unlink()
    convert(tree, tmp_path / "a.beton", Options(seed=1))
    with pytest.raises(InputError, match="was made for 30 images"):
        load_split(open_beton(tmp_path / "a.beton"), "0.50")


def test_a_split_larger_than_a_class_is_refused_before_any_image_is_read(tree, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(Files, "read", lambda self, i: read.append(i))
    with pytest.raises(InputError, match="expected 11 images of class class0 to label, it has 10; ask for 10 or fewer"):
        convert(tree, tmp_path / "a.beton", Options(per_class=(1, 11)))
    assert (read, left(tmp_path)) == ([], set())


def test_a_split_as_large_as_a_class_is_drawn(tree, tmp_path):
    convert(tree, tmp_path / "a.beton", Options(per_class=(10,), split=(1.0,)))
    assert load_split(open_beton(tmp_path / "a.beton"), "10-per-class").labelled.tolist() == list(range(30))


def test_a_split_that_bad_images_make_impossible_leaves_nothing(tree, tmp_path):
    options = Options(per_class=(10,), max_bad=0.2)
    with pytest.raises(InputError, match="expected 10 images of class class0 to label, it has 9"):
        convert(damaged(tree), tmp_path / "a.beton", options)
    source = Dataset(4, lambda i: (image(i), i // 3), ("a", "b"))  # labels that only reading tells
    with pytest.raises(InputError, match="expected 2 images of class b to label, it has 1"):
        convert(source, tmp_path / "a.beton", Options(per_class=(2,)))
    assert left(tmp_path) == set()
    assert convert(tree, tmp_path / "a.beton", Options(per_class=(9,), max_bad=0.2)).n == 28


def test_a_split_that_cannot_be_written_is_one_line_and_leaves_no_part(tree, tmp_path):
    convert(tree, tmp_path / "a.beton")
    beton = open_beton(tmp_path / "a.beton")
    (tmp_path / "a.split-0.50.json").mkdir()
    with pytest.raises(InputError, match=r"split-0\.50\.json cannot be written: "):
        save_split(beton, make_split(beton, fraction=0.5))
    assert not list(tmp_path.glob("*.partial"))


def test_a_split_on_a_disk_that_is_read_only_is_one_line(tree, tmp_path, monkeypatch):
    convert(tree, tmp_path / "a.beton")
    beton = open_beton(tmp_path / "a.beton")
    split = make_split(beton, fraction=0.5)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("open", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(InputError, match=r"split-0\.50\.json cannot be written: Read-only file system$"):
        save_split(beton, split)
