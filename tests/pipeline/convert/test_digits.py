import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.backends.libffcv import decode
from pipeline.convert.digits import PER_CLASS, ensure_digits
from pipeline.errors import InputError
from pipeline.labels.splits import known_labels, load_split, splits
from pipeline.store.beton import open_beton
from pipeline.store.sample_names import read_names


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return ensure_digits(tmp_path_factory.mktemp("data") / "digits")


def test_the_three_files_hold_each_digit_once(root):
    betons = [open_beton(root / f"{name}.beton", verify=True) for name in ("train", "val", "test")]
    assert [beton.n for beton in betons] == [1197, 300, 300]
    names = Counter(name for beton in betons for name in read_names(beton))
    assert names == Counter(f"digit-{i:04d}" for i in range(1797))
    for beton in betons[1:]:
        assert set(beton.manifest.class_counts) == set(PER_CLASS.values())
    assert max(betons[0].manifest.class_counts) - min(betons[0].manifest.class_counts) < 10


def test_shrinking_a_stored_digit_gives_scikit_learns(root):
    digits, beton = load_digits(), open_beton(root / "train.beton")
    labels = known_labels(beton, None)[np.arange(beton.n)]
    for i, name in list(enumerate(read_names(beton)))[::40]:
        number = int(name.removeprefix("digit-"))
        image = decode(beton.jpeg(i), 32, 32)
        small = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BOX)).mean(-1) * 16 / 255
        assert np.abs(small - digits.images[number]).mean() < 1.2  # another digit is 3 to 6 away
        assert labels[i] == digits.target[number]


def test_there_are_three_labelled_sets_of_one_of_five_and_of_twenty_five(root):
    beton = open_beton(root / "train.beton")
    assert splits(beton) == sorted(f"{k}-per-class{seed}" for k in (1, 5, 25) for seed in ("", "-1", "-2"))
    some = [load_split(beton, name) for name in splits(beton)]
    assert [split.labelled.size for split in some] == [10] * 3 + [250] * 3 + [50] * 3
    assert len({split.digest for split in some}) == 9


def test_valid_digits_are_left_alone_and_others_written_again(root):
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.iterdir()}
    ensure_digits(root)
    assert before == {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.iterdir()}
    (root / "val.beton").write_bytes(before["val.beton"][1][:-1])
    (root / "train.split-5-per-class-2.json").unlink()
    ensure_digits(root)
    after = {path.name: path.read_bytes() for path in root.iterdir()}
    assert after.keys() == before.keys()
    assert all(after[name] == before[name][1] for name in before if not name.endswith("beton.json"))


def test_digits_of_an_older_format_are_written_again(root, tmp_path):
    shutil.copytree(root, tmp_path / "digits")
    for path in (tmp_path / "digits").glob("*.json"):
        content = json.loads(path.read_text())
        del content["sha256"]
        path.write_text(json.dumps(content | {"format": 1}))
    with pytest.raises(InputError, match="expected format 2, got 1"):
        open_beton(tmp_path / "digits" / "train.beton")
    ensure_digits(tmp_path / "digits")
    assert {path.name for path in (tmp_path / "digits").iterdir()} == {path.name for path in root.iterdir()}
    for path in root.glob("*.beton"):
        assert open_beton(tmp_path / "digits" / path.name).digest == open_beton(path).digest
    assert load_split(open_beton(tmp_path / "digits" / "train.beton"), "5-per-class").labelled.size == 50


def test_a_place_where_no_digits_can_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/digits"):
        with pytest.raises(InputError, match=r"the digits cannot be written to .*file"):
            ensure_digits(tmp_path / place)


def test_several_processes_may_write_the_digits_at_once(root, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(ensure_digits, [tmp_path] * 3))
    for path in root.glob("*.beton"):
        assert open_beton(tmp_path / path.name).digest == open_beton(path).digest
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in root.iterdir()}
