"""Class names have one form, come from lists, and differ in ways that a message shows."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.convert.conversion import convert
from pipeline.errors import InputError
from pipeline.sources.classes import class_names, difference, read_class_list
from pipeline.sources.find import find
from pipeline.sources.objects import Dataset
from pipeline.sources.reading import Reading
from pipeline.store.beton import open_beton
from tests.pipeline.sources.test_sources import content, lay

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_names_of_two_unicode_forms_are_one_name(tmp_path):
    lay(tmp_path, f"train/{COMPOSED}/1.jpg", f"val/{DECOMPOSED}/1.jpg", "train/tea/1.jpg", "val/tea/1.jpg")
    train, val = find(tmp_path / "train"), find(tmp_path / "val")
    assert train.classes == val.classes == (COMPOSED, "tea")
    assert content(val) == {f"{DECOMPOSED}/1.jpg": 0, "tea/1.jpg": 1}  # the file's own name
    lay(tmp_path, f"both/{COMPOSED}/1.jpg", f"both/{DECOMPOSED}/1.jpg")
    with pytest.raises(InputError, match=r"one name in two Unicode forms"):
        find(tmp_path / "both")
    dataset = Dataset(2, lambda i: (Image.new("RGB", (8, 8)), i), (DECOMPOSED, "tea"))
    assert find(dataset).classes == (COMPOSED, "tea")
    assert [find(dataset).read(i)[1] for i in range(2)] == [0, 1]


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), max_size=6))
def test_names_are_composed_and_different_or_refused(names):
    try:
        found = class_names(names, "x")
    except InputError:
        return
    assert len(set(found)) == len(names)
    assert all(unicodedata.is_normalized("NFC", name) for name in found)


@pytest.fixture
def val(tmp_path) -> Path:
    lay(tmp_path / "val", "ant/1.jpg", "cow/1.jpg", "cow/2.jpg")
    return tmp_path / "val"


@pytest.fixture
def train(tmp_path) -> Path:
    """A train.beton of the classes ant, bee, cow and dog."""
    lay(tmp_path / "train", "ant/1.jpg", "bee/1.jpg", "cow/1.jpg", "dog/1.jpg")
    convert(tmp_path / "train", tmp_path / "train.beton")
    return tmp_path / "train.beton"


LISTS = {
    "l.txt": "ant\nbee\ncow\ndog\n",
    "crlf.txt": "ant\r\nbee\r\ncow\r\ndog",
    "l.json": json.dumps(["ant", "bee", "cow", "dog"]),
    "m.json": json.dumps({"format": 1, "classes": ["ant", "bee", "cow", "dog"]}),
}


def test_a_set_that_lacks_some_classes_of_train_takes_them_from_it(val, train, tmp_path):
    lists = [train, train.with_name("train.beton.json")]
    for name, text in LISTS.items():
        (tmp_path / name).write_text(text)
        lists.append(tmp_path / name)
    for path in lists:
        source = find(val, reading=Reading(classes_from=path))
        assert source.classes == ("ant", "bee", "cow", "dog")
        assert content(source) == {"ant/1.jpg": 0, "cow/1.jpg": 2, "cow/2.jpg": 2}
        assert source.labels.tolist() == [0, 2, 2]
        assert "2 of these have no image here: bee, dog" in source.notes


def test_classes_from_holds_for_tables_objects_and_images_without_labels(val, train, tmp_path):
    reading = Reading(classes_from=train)
    (tmp_path / "val.csv").write_text("path,label\nval/ant/1.jpg,dog\nval/cow/1.jpg,bee\nval/cow/2.jpg,nan\n")
    source = find(tmp_path / "val.csv", reading=reading)
    assert list(content(source).values()) == [3, 1, -1]
    dataset = Dataset(3, lambda i: (Image.new("RGB", (8, 8)), (1, 0, None)[i]), ("cow", "ant"))
    source = find(dataset, reading=reading)
    assert [source.read(i)[1] for i in range(3)] == [0, 2, -1]
    assert source.classes == ("ant", "bee", "cow", "dog")
    source = find(val / "cow", reading=reading)
    assert (source.classes, source.labels.tolist()) == (("ant", "bee", "cow", "dog"), [-1, -1])


def test_numbers_are_found_in_a_list_by_their_name(train, tmp_path):
    lay(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    for name, text in (("t", "path,label\na.jpg,1\nb.jpg,2\nc.jpg,3\n"), ("v", "path,label\na.jpg,3.0\nb.jpg,1.0\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    convert(tmp_path / "t.csv", tmp_path / "t.beton")
    source = find(tmp_path / "v.csv", reading=Reading(classes_from=tmp_path / "t.beton"))
    assert (source.classes, content(source)) == (("1", "2", "3"), {"a.jpg": 2, "b.jpg": 0})


def test_a_class_that_train_does_not_have_is_refused_by_name_and_how_it_differs(train, tmp_path):
    lay(tmp_path / "other", "Ant/1.jpg", "bee/1.jpg", "emu/1.jpg")
    with pytest.raises(InputError, match=r"2 of the 3 classes are not among those of .*train.beton") as caught:
        find(tmp_path / "other", reading=Reading(classes_from=train))
    assert "'Ant' in" in str(caught.value)
    assert "is 'ant' in" in str(caught.value)
    assert "(upper and lower case)" in str(caught.value)
    assert "'emu'" in str(caught.value)
    (tmp_path / "other/Ant/1.jpg").unlink()
    (tmp_path / "other/emu/1.jpg").unlink()
    assert find(tmp_path / "other", reading=Reading(classes_from=train)).labels.tolist() == [
        1
    ]  # empty folders do no harm


@pytest.mark.parametrize(("name", "text", "message"), [
    ("deep.json", "[" * 100_000, "expected JSON"), ("n.json", "[1, 2]", "expected a list of class names"),
    ("e.json", "[]", "found none"), ("e.txt", "\n\n", "found none"), ("twice.txt", "a\nb\na\n", "'a' twice"),
    ("nul.txt", "a\0b", "a NUL byte"), ("long.txt", "x" * 999, "1 to 255 characters"),
    ("q.json", '["a"', "expected JSON"),
    ("half.json", b'["\xff"]', "expected JSON"),
    ("none.json", '{"classes": null}', "expected a list of class names"),
])  # fmt: skip
def test_what_is_no_list_of_classes_is_refused_in_a_line(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as caught:
        read_class_list(tmp_path / name)
    assert "\n" not in str(caught.value)
    for path, said in ((tmp_path / "absent.txt", "No such file"), (tmp_path, "a folder, expected a regular file")):
        with pytest.raises(InputError, match=said):
            read_class_list(path)


@pytest.mark.parametrize(("ours", "theirs", "said"), [
    (("cat", "Dog"), ("cat", "dog"), "'Dog' here is 'dog' there (upper and lower case)"),
    (("01", "10"), ("1", "10"), "'01' here is '1' there (leading zeros)"),
    (("cat", "dog "), ("cat", "dog"), "'dog ' here is 'dog' there (white space)"),
    (("dog\u00a0x",), ("dog x",), "'dog\\xa0x' here is 'dog x' there (white space)"),
    ((COMPOSED,), (DECOMPOSED,), "'caf\\xe9' here is 'cafe\\u0301' there (Unicode form)"),
    (("sea_lion",), ("Sea lion",), "'sea_lion' here is 'Sea lion' there (case, white space or signs between words)"),
    (("a", "b"), ("b", "a"), "the same names in another order: class 0 is 'a' here and 'b' there"),
    (("a",), ("a", "b"), "only there: 'b'"),
    (("a", "c"), ("a", "b"), "only here: 'c'; only there: 'b'"),
    (("0", "1"), ("cat", "dog"), "numbers here, names there; only here: '0', '1'; only there: 'cat', 'dog'"),
    (tuple("abcdefg"), ("x",), "only here: 'a', 'b', 'c', 'd', 'e', ... (7 in all); only there: 'x'"),
    (("a", "b"), ("a", "b"), "the same names"),
])  # fmt: skip
def test_how_two_lists_of_classes_differ_is_shown(ours, theirs, said):
    assert difference(ours, theirs) == said


FEW = st.lists(st.sampled_from(["a", "A", "a ", "b", "B b", "b_b", "c"]), unique=True, max_size=5)


@given(FEW, FEW)
def test_every_name_that_only_one_list_has_is_shown(ours, theirs):
    text = difference(ours, theirs)
    for name in set(ours) ^ set(theirs):
        assert repr(name) in text


def test_the_manifest_keeps_the_classes_in_trains_order(val, train, tmp_path):
    manifest = convert(val, tmp_path / "val.beton", reading=Reading(classes_from=train))
    assert manifest.classes == open_beton(train).manifest.classes
    assert manifest.class_counts == (1, 0, 2, 0)
    assert np.all(find(val, reading=Reading(classes_from=train)).labels >= 0)
