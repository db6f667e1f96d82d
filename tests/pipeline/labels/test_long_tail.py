"""Long-tailed splits: published counts of CIFAR-10-LT, and properties of what is drawn."""

import json

import numpy as np
import pytest

from pipeline.convert.conversion import convert
from pipeline.errors import InputError
from pipeline.labels.long_tail import largest_that_fits, long_tail
from pipeline.labels.splits import Tail, load_split, make_split, save_split, split_name, split_path
from pipeline.sources.objects import Dataset
from pipeline.spec import Data, Needs
from pipeline.split import main
from pipeline.store.beton import open_beton
from pipeline.store.sample_names import read_names
from pipeline.train_data import open_train_data
from tests.checksummed import rewrite

HELD = (30, 30, 30, 30)
LABELS = [label for label, held in enumerate(HELD) for _ in range(held)]
PIXELS = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def beton(tmp_path_factory):
    out = tmp_path_factory.mktemp("tail") / "train.beton"
    convert(Dataset(len(LABELS), lambda i: (PIXELS, LABELS[i]), ("a", "b", "c", "d")), out)
    return open_beton(out)


def counts(beton, ids) -> list[int]:
    """Images of each class, through the samples' names, which are the source's numbers."""
    names = read_names(beton)
    return np.bincount([LABELS[int(names[i])] for i in ids], minlength=4).tolist()


@pytest.mark.parametrize(
    ("largest", "ratio", "expected"),
    [
        (5000, 100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),  # CIFAR-10-LT: Cao et al. 2019, their code
        (5000, 50, [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]),
        (1500, 100, [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15]),  # DARP's labelled set
        (7, 1, [7] * 10),
    ],
)
def test_counts_are_those_of_the_literature(largest, ratio, expected):
    assert long_tail(largest, 10, ratio) == expected
    assert long_tail(largest, 10, -ratio) == expected[::-1]


def test_every_class_has_one_image_and_the_ends_are_exact():
    assert long_tail(5, 4, 1000) == [5, 1, 1, 1]
    for largest in range(1, 200):
        for ratio in (2, 3, 7, 10, 50):
            found = long_tail(largest, 6, ratio)
            assert (found[0], found[-1]) == (largest, max(1, largest // ratio))
            assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("ratio", [0, 0.5, -0.5, float("nan"), float("inf"), 1e7])
def test_ratios_that_cannot_be_meant_are_refused(ratio):
    with pytest.raises(InputError, match="expected an imbalance of 1 to 1,000,000"):
        long_tail(10, 4, ratio)


def test_one_class_has_no_imbalance():
    assert long_tail(10, 1, 1) == [10]
    with pytest.raises(InputError, match="an imbalance is one between classes"):
        long_tail(10, 1, 2)


@pytest.mark.parametrize("ratio", [1, 3, -3, 40])
def test_the_largest_that_fits_is_that_of_a_search(ratio):
    held = [25, 9, 14, 30]
    slow = max(n for n in range(1, 100) if all(k <= h for k, h in zip(long_tail(n, 4, ratio), held, strict=True)))
    assert largest_that_fits(held, ratio) == slow
    assert largest_that_fits([5, 0, 5], ratio) == 0


def test_a_long_tail_is_a_part_of_the_balanced_split(beton):
    tail = make_split(beton, per_class=20, seed=3, tail=Tail(8))
    assert tail.name == "20-per-class-imbalance8-3"
    assert counts(beton, tail.labelled) == [20, 10, 5, 2] == long_tail(20, 4, 8)
    assert set(tail.labelled) < set(make_split(beton, per_class=20, seed=3).labelled)
    assert tail.unlabelled is None
    with pytest.raises(InputError, match="expected 31 images of class d to label, it has 30; ask for fewer of the"):
        make_split(beton, per_class=31, tail=Tail(-8))


def test_the_unlabelled_pool_has_a_tail_of_its_own(beton):
    split = make_split(beton, per_class=10, tail=Tail(10, -5, 20))
    assert split.name == "10-per-class-imbalance10-unlabelled20-reversed5"
    assert counts(beton, split.labelled) == long_tail(10, 4, 10)
    assert counts(beton, split.unlabelled) == [4, 6, 11, 20]
    assert not set(split.labelled) & set(split.unlabelled)
    again = load_split(beton, save_split(beton, split).name.removeprefix("train.split-").removesuffix(".json"))
    assert np.array_equal(again.unlabelled, split.unlabelled)
    assert again.digest == split.digest != make_split(beton, per_class=10, tail=Tail(10)).digest


def test_without_a_number_the_pool_is_as_large_as_every_class_permits(beton):
    split = make_split(beton, per_class=10, tail=Tail(10, 10))
    assert counts(beton, split.unlabelled) == long_tail(20, 4, 10)  # the first class has 30, 10 of them labelled
    assert "unlabelled20-imbalance10" in split.name
    with pytest.raises(InputError, match=r"expected 21 unlabelled images .* the classes permit 20 of the largest"):
        make_split(beton, per_class=10, tail=Tail(10, 10, 21))
    with pytest.raises(InputError, match=r"every image of .* is labelled"):
        make_split(beton, per_class=30, tail=Tail(1, 1))


def test_training_sees_the_pool_and_no_other_image(beton):
    split = make_split(beton, per_class=10, tail=Tail(10, 1, 5))
    save_split(beton, split)
    needs = Needs(labelled=True, unlabelled=True, strong=True)
    for unlabelled, expected in (("rest", split.unlabelled), ("all", np.union1d(split.labelled, split.unlabelled))):
        data = Data(root=str(beton.path.parent), split=split.name, unlabelled=unlabelled)
        found = open_train_data(data, needs)
        assert np.array_equal(found.unlabelled, expected)
        assert found.label_counts.tolist() == long_tail(10, 4, 10)
        assert found.pools == (len(split.labelled), len(expected))
    data = Data(root=str(beton.path.parent), split=None, unlabelled="all")
    assert open_train_data(data, needs).label_counts.tolist() == list(HELD)


def test_a_split_without_a_pool_is_written_as_before(beton):
    path = save_split(beton, make_split(beton, per_class=2, tail=Tail(1)))
    assert path.name == "train.split-2-per-class.json"
    fields = {"format", "name", "beton", "n", "seed", "classes", "labelled", "sha256"}
    assert set(json.loads(path.read_text())) == fields


@pytest.mark.parametrize(
    ("pool", "message"),
    [([], "some, and none of them labelled"), ([3, 3], "different ids"), ([500], "below 120"), ([-1, 3], "below 120"),
     ("labelled", "none of them labelled"), ([1.5], "expected a whole number"), (None, "expected a list")],
)  # fmt: skip
def test_pools_that_cannot_be_are_refused(beton, pool, message):
    split = make_split(beton, per_class=10, tail=Tail(2, 1, 5))
    save_split(beton, split)
    pool = [int(split.labelled[0])] if pool == "labelled" else pool
    rewrite(split_path(beton.path, split.name), unlabelled=pool)
    with pytest.raises(InputError, match=message):
        load_split(beton, split.name)


def test_a_missing_split_names_the_command_that_makes_it(beton, monkeypatch, capsys):
    name = "9-per-class-imbalance3-unlabelled6-reversed2.5-4"
    split_path(beton.path, name).write_text("{}")
    with pytest.raises(InputError) as error:
        load_split(beton, name)
    command = str(error.value).partition("make it again with python -m pipeline.split ")[2].split()
    monkeypatch.setattr("sys.argv", ["split", *command])
    main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [
        "22 labels of 4 classes: a 9, b 6, c 4, d 3",
        "15 unlabelled images of 4 classes: a 2, b 3, c 4, d 6",
        "83 images in neither: left out of training",
    ]
    assert load_split(beton, name).name == name
    assert printed[-1].endswith(f"train.split-{name}.json")


def test_a_tail_that_is_cut_at_one_label_is_said(beton, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["split", "make", str(beton.path), "--per-class", "5", "--imbalance", "100"])
    main()
    assert "the imbalance is 5" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["split", "make", str(beton.path), "--per-class", "5", "--imbalance", "5"])
    main()
    assert "the imbalance is" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fraction", "per_class", "tail", "message"),
    [(0.1, None, Tail(2), "give --per-class"), (0.1, None, Tail(1, 2), "give --per-class"),
     (None, 5, Tail(1, None, 0), "at least 1 unlabelled"), (None, 5, Tail(1, 0), "an imbalance of 1 to")],
)  # fmt: skip
def test_tails_that_cannot_be_meant_are_refused(fraction, per_class, tail, message):
    with pytest.raises(InputError, match=message):
        split_name(fraction, per_class, 0, tail)
