import json
import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.convert.conversion import convert
from pipeline.errors import InputError
from pipeline.labels.hidden import Oracle
from pipeline.labels.published_list import import_list
from pipeline.labels.splits import (
    known_labels,
    load_split,
    make_split,
    save_split,
    split_name,
    split_path,
    splits,
)
from pipeline.sources.listing import Listing
from pipeline.sources.objects import Dataset
from pipeline.sources.source import Files
from pipeline.split import main
from pipeline.store.beton import open_beton
from pipeline.store.file_format import metadata
from pipeline.store.sample_names import encode_names, escape, names_path, read_names, unescape
from tests.checksummed import rewrite

COUNTS, UNLABELLED = (3, 10, 25, 1), 6
LABELS = [label for label, count in enumerate(COUNTS) for _ in range(count)] + [-1] * UNLABELLED
PIXELS = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def beton(tmp_path_factory):
    out = tmp_path_factory.mktemp("split") / "train.beton"
    convert(Dataset(len(LABELS), lambda i: (PIXELS, LABELS[i]), ("a", "b", "c", "d")), out)
    return open_beton(out)


def true_labels(beton) -> np.ndarray:
    """Through the sample's names, which are the source's numbers."""
    return np.array([LABELS[int(name)] for name in read_names(beton)])


@settings(max_examples=40, deadline=None)
@given(fraction=st.floats(0.001, 1), seed=st.integers(0, 2**31))
def test_a_fraction_takes_the_same_share_of_every_class(beton, fraction, seed):
    split = make_split(beton, fraction=fraction, seed=seed)
    labels = true_labels(beton)[split.labelled]
    assert np.bincount(labels, minlength=4).tolist() == [max(1, round(fraction * count)) for count in COUNTS]
    assert len(set(split.labelled.tolist())) == split.labelled.size
    assert np.array_equal(make_split(beton, fraction=fraction, seed=seed).labelled, split.labelled)


def test_a_number_per_class_is_exact_and_nested_and_seeded(beton):
    small, other = make_split(beton, per_class=1), make_split(beton, per_class=1, seed=5)
    assert np.bincount(true_labels(beton)[small.labelled]).tolist() == [1, 1, 1, 1]
    assert set(small.labelled) <= set(make_split(beton, fraction=0.5).labelled)
    assert set(small.labelled) != set(other.labelled)
    assert small.digest != other.digest
    with pytest.raises(InputError, match="expected 2 images of class d to label, it has 1"):
        make_split(beton, per_class=2)


def test_a_draw_takes_the_first_of_each_classs_images_in_an_order_of_its_own(beton):
    true = true_labels(beton)
    kept = [np.random.default_rng([5, c]).permutation(np.flatnonzero(true == c))[:1] for c in range(4)]
    assert make_split(beton, per_class=1, seed=5).labelled.tolist() == sorted(np.concatenate(kept).tolist())


def test_names_say_how_a_split_was_drawn():
    assert split_name(0.1, None, 0) == "0.10"
    assert split_name(0.01, None, 0) == "0.01"
    assert split_name(0.002, None, 3) == "0.002-3"
    assert split_name(None, 25, 0) == "25-per-class"
    assert split_name(None, 4, 1) == "4-per-class-1"


@pytest.mark.parametrize("asked", [(0, None), (1.1, None), (-0.1, None), (None, 0), (None, None), (0.1, 4)])
def test_splits_that_cannot_be_meant_are_refused(asked):
    with pytest.raises(InputError, match="expected"):
        split_name(*asked, 0)


def test_a_seed_below_0_is_refused():
    with pytest.raises(InputError, match="expected a seed of 0 or more, got -1"):
        split_name(0.1, None, -1)


def test_a_saved_split_comes_back(beton):
    split = make_split(beton, fraction=0.2, seed=3)
    path = save_split(beton, split)
    assert path.name == "train.split-0.20-3.json"
    back = load_split(beton, "0.20-3")
    assert np.array_equal(back.labelled, split.labelled)
    assert (back.name, back.seed, back.classes, back.digest) == (split.name, 3, ("a", "b", "c", "d"), split.digest)
    assert "0.20-3" in splits(beton)
    assert not list(path.parent.glob("*.partial"))


@pytest.mark.parametrize(("asked", "made"), [("0.5", "0.50"), (".5", "0.50"), ("0.500", "0.50")])
def test_a_fraction_is_found_in_whatever_digits(beton, asked, made):
    save_split(beton, make_split(beton, fraction=0.5))
    assert load_split(beton, asked).name == load_split(beton, made).name == made
    for other in ("0.05", "50", "nan", "half"):
        with pytest.raises(InputError, match="no split"):
            load_split(beton, other)


def test_only_allowed_labels_are_known(beton):
    split = make_split(beton, fraction=0.2)
    known, true = known_labels(beton, split)[np.arange(beton.n)], true_labels(beton)
    assert known.dtype == np.int64
    assert np.array_equal(known[split.labelled], true[split.labelled])
    assert (np.delete(known, split.labelled) == -1).all()
    assert np.array_equal(known_labels(beton, None)[np.arange(beton.n)], true)
    assert np.array_equal(Oracle(beton).labels(np.array([5, 1, 5])), true[[5, 1, 5]])


def test_an_unknown_name_lists_those_there_are(beton):
    save_split(beton, make_split(beton, per_class=1))
    with pytest.raises(InputError, match=r"has no split '0\.7', it has: .*1-per-class; .* make .* --fraction"):
        load_split(beton, "0.7")
    with pytest.raises(InputError, match="expected a split name"):
        load_split(beton, "../0.7")


def test_the_split_of_another_file_is_refused(beton, tmp_path):
    convert(Dataset(44, lambda i: (PIXELS, LABELS[i]), ("a", "b", "c", "d")), tmp_path / "train.beton")
    other, split = open_beton(tmp_path / "train.beton"), make_split(beton, per_class=1)
    split_path(other.path, "1-per-class").write_bytes(save_split(beton, split).read_bytes())
    with pytest.raises(InputError, match=r"was made for 45 images \(digest .{8}\), .* has 44"):
        load_split(other, "1-per-class")
    with pytest.raises(InputError, match="made for another file"):
        known_labels(other, split)


WRONG = {
    "no ids": ({"labelled": []}, "got none"),
    "an id twice": ({"labelled": [0, 0]}, "sorted, different"),
    "ids that fall": ({"labelled": [5, 3]}, "sorted, different"),
    "an id beyond the file": ({"labelled": [99]}, "below 45"),
    "an id below 0": ({"labelled": [-1]}, "below 45"),
    "a share of an id": ({"labelled": [3.7]}, r"labelled\[0\]: expected a whole number, got 3\.7"),
    "a whole id with a point": ({"labelled": [3.0]}, r"expected a whole number, got 3\.0"),
    "a true id": ({"labelled": [0, True]}, r"labelled\[1\]: expected a whole number, got True"),
    "an id in quotes": ({"labelled": ["3"]}, "expected a whole number, got '3'"),
    "no id": ({"labelled": [None]}, "expected a whole number, got None"),
    "ids in ids": ({"labelled": [[1]]}, "expected a whole number, got a JSON list"),
    "an id of many digits": ({"labelled": [10**25]}, "expected a number of 64 bits, got one of 26 digits"),
    "an id just beyond 64 bits": ({"labelled": [2**63]}, "64 bits"),
    "ids that are a text": ({"labelled": "x"}, "labelled: expected a list, got 'x'"),
    "ids that are an object": ({"labelled": {"0": 1}}, "labelled: expected a list, got a JSON dict"),
    "reversed classes": ({"classes": ["d", "c", "b", "a"]}, "expected 'a' for class 0, as in the file, got 'd'"),
    "fewer classes": ({"classes": ["a", "b", "c"]}, "expected the file's 4 classes, got 3"),
    "more classes": ({"classes": ["a", "b", "c", "d", "e"]}, "expected the file's 4 classes, got 5"),
    "another class": ({"classes": ["a", "b", "x", "d"]}, "expected 'c' for class 2, as in the file, got 'x'"),
    "a class that is no text": ({"classes": ["a", "b", "c", 4]}, r"classes\[3\]: expected text, got 4"),
    "no classes": ({"classes": None}, "classes: expected a list, got None"),
    "another count": ({"n": 46}, "was made for 46 images"),
    "a count that is no number": ({"n": "45"}, "n: expected a whole number, got '45'"),
    "a true count": ({"n": True}, "n: expected a whole number, got True"),
    "another file": ({"beton": "0" * 64}, r"was made for 45 images \(digest 00000000\)"),
    "no file": ({"beton": 0}, "beton: expected text, got 0"),
    "a file that is a line break": ({"beton": "\n"}, "beton: expected a digest of 64 hexadecimal digits"),
    "a seed with a point": ({"seed": 0.5}, "seed: expected a whole number, got 0.5"),
    "the old format": ({"format": 1}, "expected format 2, got 1"),
    "a format to come": ({"format": 9}, "expected format 2, got 9"),
    "a true format": ({"format": True}, "expected format 2, got True"),
    "no format": ({"format": ...}, "expected format 2, got None"),
    "no seed": ({"seed": ...}, "missing or unknown: seed"),
    "a field too many": ({"colour": "red"}, "missing or unknown: colour"),
    "text that UTF-8 cannot hold": ({"name": "\ud800"}, "expected text that UTF-8 can hold"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_split_that_says_what_cannot_be_is_refused_in_a_line_with_the_command_that_makes_it(beton, what):
    change, message = WRONG[what]
    path = save_split(beton, make_split(beton, per_class=1, name="1-per-class-7"))
    assert load_split(beton, "1-per-class-7").labelled.size == 4
    rewrite(path, **change)
    with pytest.raises(InputError, match=message) as refused:
        load_split(beton, "1-per-class-7")
    assert "\n" not in str(refused.value)
    assert (
        "make the split again" in str(refused.value)
        or "--per-class 1 --seed 7" in str(refused.value)
        or (what == "no ids")
    )
    path.unlink()


@pytest.mark.parametrize("change", [
    {"labelled": [1, 2, 3, 4]}, {"classes": ["d", "c", "b", "a"]}, {"seed": 1}, {"n": 44}, {"sha256": "0" * 64},
    {"sha256": None}, {"sha256": 1},
])  # fmt: skip
def test_a_split_that_was_edited_is_refused(beton, change):
    path = save_split(beton, make_split(beton, per_class=1, name="edited"))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="its checksum is wrong: it was changed after it was written"):
        load_split(beton, "edited")
    path.unlink()


@pytest.mark.parametrize(("text", "message"), [
    (b"", "expected a split file"), (b"{", "expected a split file"), (b"[]", "expected a JSON object, got a JSON list"),
    (b"3", "got a JSON int"), (b"null", "got a JSON NoneType"), (b"\0" * 99, "expected a split file"),
    (b"\xff\xfe{}", "can't decode byte 0xff"), (b"[" * 100_000, "nested too deeply"),
    (b'{"a":' * 100_000, "nested too deeply"), (b'{"format": NaN}', "expected finite numbers, got NaN"),
    (b'{"format": 1e999}', "expected finite numbers, got 1e999"), (b'{"format": -Infinity}', "got -Infinity"),
    (b'{"format": ' + b"9" * 5000 + b"}", "expected a split file"), (b'{"format": 2, "format": 2}', "'format' stands"),
    (b'{"format": 2}', "its checksum is wrong"), (b'{"format": 2, "x": "\0"}', "expected a split file"),
])  # fmt: skip
def test_what_is_no_split_is_refused_in_a_line(beton, text, message):
    path = split_path(beton.path, "4-per-class")
    path.write_bytes(text)
    with pytest.raises(InputError, match=message) as refused:
        load_split(beton, "4-per-class")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500
    path.unlink()


def test_no_flipped_bit_of_a_split_gives_other_ids(beton):
    split = make_split(beton, fraction=0.5, seed=3)
    path = save_split(beton, split)
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(3000):
        at, bit = draw.randrange(len(whole)), draw.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        try:
            found = load_split(beton, "0.50-3")
        except InputError:
            refused += 1
        else:
            assert found.labelled.tolist() == split.labelled.tolist()
            assert (found.name, found.classes, found.seed) == (split.name, split.classes, split.seed)
    assert refused > 2900
    path.unlink()


def test_a_split_that_is_no_regular_file_is_none(beton):
    path = split_path(beton.path, "fifo")
    os.mkfifo(path)  # reading it would wait for ever
    with pytest.raises(InputError, match="has no split 'fifo'"):
        load_split(beton, "fifo")
    path.unlink()


@pytest.mark.parametrize(("name", "command"), [
    ("0.10", "make {} --fraction 0.10"), ("0.002-3", "make {} --fraction 0.002 --seed 3"), ("25-per-class",
     "make {} --per-class 25"), ("4-per-class-1", "make {} --per-class 4 --seed 1"),
    ("semiformer10", "import {} LIST --name semiformer10"),
])  # fmt: skip
def test_the_command_that_makes_a_split_again_is_named(beton, name, command):
    path = split_path(beton.path, name)
    path.write_text('{"format": 1}')
    with pytest.raises(InputError) as refused:
        load_split(beton, name)
    assert str(refused.value).endswith(f"make it again with python -m pipeline.split {command.format(beton.path)}")
    path.unlink()


def test_a_split_needs_a_label_of_every_class_and_only_labelled_samples(beton):
    true = true_labels(beton)
    path = save_split(beton, make_split(beton, per_class=1, name="few"))
    for ids, message in ((np.flatnonzero(true == 1), "3 have none"), (np.flatnonzero(true <= 1), "6 without one")):
        rewrite(path, labelled=ids.tolist())
        with pytest.raises(InputError, match=message):
            load_split(beton, "few")
    path.unlink()


def test_a_file_without_labels_has_no_splits(tmp_path):
    convert(Dataset(3, lambda i: (PIXELS, None), None), tmp_path / "u.beton")
    with pytest.raises(InputError, match="no labels to split"):
        make_split(open_beton(tmp_path / "u.beton"), fraction=0.5)


@pytest.fixture
def listed(tmp_path):
    names = [f"{folder}/{folder}_{i}.png" for folder in ("n01", "n02") for i in range(4)] + [
        "n01/same.png",
        "n02/same.png",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS).save(tmp_path / name)
    source = Files(tmp_path, names, np.array([0] * 4 + [1] * 4 + [0, 1]), ("n01", "n02"), Listing())
    convert(source, tmp_path / "train.beton")
    return open_beton(tmp_path / "train.beton")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("n01_1.png\nn02_3.png\n", "utf-8"),
        ("n01/n01_1.png\n\n n02/n02_3.png", "utf-8"),
        ("n01_1.png, 0\nn02_3.png 17", "utf-8"),
        ("n01_1.png\r\nn02_3.png\r\n", "utf-8-sig"),
        ("n01_1.png\r\nn02_3.png\r\n", "utf-16"),
        ("n01_1.png\rn02_3.png", "ascii"),
        ("n01_1.png n01\nn02_3.png n02", "ascii"),
        ("./n01/n01_1.png\nn02\\n02_3.png", "ascii"),
    ],
)
def test_published_lists_name_samples(listed, text, encoding, monkeypatch, capsys):
    path = listed.path.with_name("list.txt")
    path.write_bytes(text.encode(encoding))
    monkeypatch.setattr("sys.argv", ["split", "import", str(listed.path), str(path), "--name", "semiformer10"])
    main()
    assert capsys.readouterr().out.strip().endswith("train.split-semiformer10.json")
    split = load_split(listed, "semiformer10")
    assert split.seed is None
    assert sorted(read_names(listed)[i] for i in split.labelled) == ["n01/n01_1.png", "n02/n02_3.png"]
    assert import_list(listed, path, "again").digest == split.digest


@pytest.mark.parametrize(("text", "message"), [
    ("n01_1.png\nn09_1.png", "1 of 2 lines"), ("same.png", "or several"), ("n01_1.png", "1 have none"), ("", "none"),
    ("n01_1.png n02\nn02_3.png n02", "n01_1.png n02 says n02, but that image is of class n01"),
    ("n01_1.png 4\nn02_3.png 4", "n02_3.png 4 says 4, but that image is of class n02 in the .beton, where 4 means n01"),
    ("n01_1.png\nn02_3.png\nn01/n01_1.png", r"1 samples are named more than once \(n01_1\.png, \.\.\.\)"),
    ("n01_1.png\n\x1b[2J\x00.png", r"1 of 2 lines name no .*: \\u001b\[2J\\u0000\.png$"),
])  # fmt: skip
def test_lists_that_do_not_fit_are_refused(listed, text, message):
    path = listed.path.with_name("list.txt")
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        import_list(listed, path, "x")
    with pytest.raises(InputError, match="expected a list"):
        import_list(listed, path.with_name("absent"), "x")


def test_names_of_another_file_are_refused(listed):
    path = names_path(listed.path)
    whole = path.read_bytes()
    path.write_bytes(whole[1:])
    with pytest.raises(InputError, match="does not hold the names"):
        read_names(listed)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        read_names(listed)
    path.write_bytes(whole)
    assert len(read_names(listed)) == listed.n


@given(st.lists(st.text(st.characters(codec=None), min_size=1), max_size=5))
def test_names_of_any_characters_come_back(names):
    lines = encode_names(map(escape, names)).decode().split("\n")[:-1]
    assert [unescape(line) for line in lines] == names


def test_the_command_line_draws_splits(beton, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["split", "make", str(beton.path), "--fraction", "0.4", "--seed", "2"])
    main()
    assert capsys.readouterr().out.strip().endswith("train.split-0.40-2.json")
    assert load_split(beton, "0.40-2").seed == 2


def test_labels_outside_the_split_are_never_read(beton, monkeypatch):
    split, rows = make_split(beton, per_class=1), metadata(beton.data, beton.n).copy()
    hidden = np.setdiff1d(np.arange(beton.n), split.labelled)
    rows["label"][hidden] = 77  # what must not be looked at
    monkeypatch.setattr("pipeline.labels.splits.metadata", lambda data, n: rows)
    known = known_labels(beton, split)
    assert 77 not in known[np.arange(beton.n)]
    assert 77 not in known.values
