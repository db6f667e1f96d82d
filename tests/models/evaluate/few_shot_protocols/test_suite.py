"""Suites: names, folders, and what cannot be one."""

import pytest
from PIL import Image

from models.evaluate.few_shot_protocols.suite import open_suite
from models.evaluate.few_shot_protocols.table import ClassifierResult, numbers, page
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.spec import Data


def made(folder, classes=("cat", "dog"), files=("train", "test"), each=3):
    """Plain images, a colour for each class."""
    for number, name in enumerate(classes):
        (folder / "in" / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (16, 16), (80 * number, 10 * i, 40)).save(folder / "in" / name / f"{i}.png")
    for file in files:
        convert(folder / "in", folder / f"{file}.beton", Options(side=None))
    return folder


def test_sets_are_called_as_said_or_by_their_folder(tmp_path):
    made(tmp_path / "pets")
    one, two = open_suite([str(tmp_path / "pets"), f"again={tmp_path / 'pets'}"], Data())
    assert (one.name, two.name, one.classes) == ("pets", "again", ("cat", "dog"))
    assert one.val is None
    assert one.test.path.name == "test.beton"


def test_val_is_opened_only_where_it_selects(tmp_path):
    made(tmp_path, files=("train", "val", "test"))
    assert open_suite([str(tmp_path)], Data())[0].val is None
    assert open_suite([str(tmp_path)], Data(), val="val.beton")[0].val.path.name == "val.beton"


@pytest.mark.parametrize(("entries", "said"), [
    (["a={0}", "a={0}"], "two sets are called a"),
    (["={0}"], "expected FOLDER or NAME=FOLDER"),
    (["a="], "expected FOLDER or NAME=FOLDER"),
    (["{0}/nothing"], "no such file"),
])  # fmt: skip
def test_wrong_suites_are_said(entries, said, tmp_path):
    made(tmp_path)
    with pytest.raises(InputError, match=said):
        open_suite([each.format(tmp_path) for each in entries], Data())


def test_files_that_do_not_go_together_are_said(tmp_path):
    made(tmp_path)
    other = made(tmp_path / "other", ("cat", "cow"), ("test",))
    for file in other.glob("test.beton*"):
        file.replace(tmp_path / file.name)
    with pytest.raises(InputError, match=r"test.beton has other classes than .*train.beton"):
        open_suite([str(tmp_path)], Data())
    with pytest.raises(InputError, match="expected at least two classes"):
        open_suite([str(made(tmp_path / "one", ("cat",)))], Data())
    with pytest.raises(InputError, match="cannot both select and be tested on"):
        open_suite([str(tmp_path)], Data(), test="val.beton", val="val.beton")


def results():
    values = {("a", 0): 0.5, ("a", 1): 0.7, ("b", 0): 0.9, ("b", 1): 0.3}
    return [ClassifierResult(name, 5, seed, value, {"l2": 0.1}) for (name, seed), value in values.items()]


def test_numbers_are_means_and_spreads_and_all_is_over_each_draws_mean():
    found = numbers(results())
    assert found["a_5shot_mean"] == pytest.approx(0.6)
    assert found["a_5shot_std"] == pytest.approx(0.02**0.5)  # n - 1
    assert found["all_5shot_mean"] == pytest.approx(0.6)
    assert found["all_5shot_std"] == pytest.approx(0.02**0.5)  # of 0.7 and 0.5
    assert len(found) == 6


def test_one_draw_has_no_spread_and_one_set_no_mean_over_sets():
    assert numbers(results()[:1]) == {"a_5shot_mean": 0.5}


def test_the_table_shows_each_set_and_their_mean():
    _, head, table, remark, every = page(results(), {"a": "accuracy", "b": "per class"}, ["b is small"], "how")
    assert "2 draws" in head.text
    assert table.rows == [
        ("a", "accuracy", "60.0 ± 14.1 % (2)"),
        ("b", "per class", "60.0 ± 42.4 % (2)"),
        ("all", "mean", "60.0 ± 14.1 % (2)"),
    ]
    assert remark.text == "b is small"
    assert len(every.rows) == 4
    assert every.rows[0][:5] == ("a", "5", "0", "50.0 %", "l2 0.1")
