"""Suites: names, folders, and what cannot be one."""

import pytest
from PIL import Image

from models.evaluate.few_shot_protocols.published import published
from models.evaluate.few_shot_protocols.suite import open_suite
from models.evaluate.few_shot_protocols.table import ClassifierResult, numbers, page
from pipeline.convert.conversion import Options, convert
from pipeline.elevater.catalogue import CATALOGUE
from pipeline.elevater.prepare import FACTS, prepare
from pipeline.errors import InputError
from pipeline.spec import Data
from tests.checksummed import rewrite
from tests.toy_elevater import toy, write_archive


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


def prepared(tmp_path, *names):
    """Toy copies of ELEVATER's sets, prepared below one folder."""
    for name in names:
        facts = toy(name, classes=2, each=2)
        write_archive(facts, tmp_path / "archive")
        prepare(facts, tmp_path / "archive", tmp_path / "sets" / name, Options(max_bad=0, workers=1))
    return tmp_path / "sets"


def test_a_folder_of_prepared_sets_stands_for_all_with_their_metrics(tmp_path):
    folder = prepared(tmp_path, "voc-2007-classification", "caltech-101", "hateful-memes")
    sets = open_suite([f"elevater={folder}"], Data())
    assert [(each.name, each.benchmark, each.metric, each.several) for each in sets] == [
        ("caltech-101", "caltech-101", "per_class", False),
        ("hateful-memes", "hateful-memes", "roc_auc", False),
        ("voc-2007-classification", "voc-2007-classification", "map_11_points", True),
    ]
    (one,) = open_suite([f"mine={folder / 'hateful-memes'}"], Data())
    assert (one.name, one.benchmark, one.remarks) == ("mine", "hateful-memes", ())
    with pytest.raises(InputError, match="two sets are called caltech-101"):
        open_suite([str(folder), str(folder)], Data())


def test_a_prepared_set_whose_files_were_replaced_is_refused(tmp_path):
    folder = prepared(tmp_path, "caltech-101") / "caltech-101"
    rewrite(folder / FACTS, differs=["expected 3 train images, found 2"])
    assert open_suite([str(folder)], Data())[0].remarks == (
        "caltech-101 differs: expected 3 train images, found 2.",
    )  # fmt: skip
    convert(made(tmp_path / "other", ("class 0", "class 1"), ()) / "in", folder / "test.beton", Options(overwrite=True))
    with pytest.raises(InputError, match=r"test.beton is not the file that elevater.json beside it was written for"):
        open_suite([str(folder)], Data())


def test_the_papers_means_stand_beside_the_mean_over_elevaters_sets():
    given = {"a": "caltech-101", "b": "cifar-10"}
    first, lacking, protocol, table = published([*results(), ClassifierResult("own", 5, 0, 0.0)], "linear", given, "x")
    assert "20 sets" in first.text
    assert lacking.text.startswith("Not comparable: 18 sets of the 20 not there: cifar-100, country211")
    assert "--protocol elevater" in protocol.text
    assert table.rows[-2:] == [
        ("SupMAE", "47.97 %", "60.86 %", "66.68 %"),
        ("this run, 2 sets", "60.00 %", "-", "-"),
    ]  # fmt: skip
    assert published(results(), "linear", {}, "elevater") == []
    whole = {name: name for name in CATALOGUE}
    blocks = published([ClassifierResult(name, 7, 0, 0.5) for name in whole], "finetune", whole, "elevater")
    assert len(blocks) == 2
    assert blocks[1].rows[-1] == ("this run, 20 sets", "-", "-", "-", "50.00 %")
