"""A manifest that was changed, or says what cannot be, is refused in a line."""

import json
import os
import random

import numpy as np
import pytest

from pipeline.convert.conversion import convert
from pipeline.errors import InputError
from pipeline.sources.objects import Dataset
from pipeline.store.beton import open_beton
from pipeline.store.manifest import manifest_path, read_manifest
from tests.checksummed import rewrite

WRONG = {
    "a count in quotes": ({"n": "9"}, "n: expected a whole number, got '9'"),
    "a true count": ({"n": True}, "n: expected a whole number, got True"),
    "a count with a point": ({"n": 9.0}, r"n: expected a whole number, got 9\.0"),
    "a huge count": ({"n": 10**30}, "n: expected a number of 64 bits, got one of 31 digits"),
    "no image": ({"n": 0}, "expected labelled and unlabelled images to be 0 together, got 9"),
    "one image more": ({"n": 10}, "to be 10 together, got 9"),
    "counts that do not add up": ({"class_counts": [3, 3, 2]}, "to be 9 together, got 8"),
    "a count below 0": ({"class_counts": [3, 8, -2]}, "together"),
    "a class without a count": ({"class_counts": [3, 6]}, "expected a count for each of 3 classes, got 2"),
    "counts without classes": ({"classes": None}, "expected a count for each of 0 classes, got 3"),
    "classes that are a text": ({"classes": "abc"}, "classes: expected a list, got 'abc'"),
    "a class that is a number": ({"classes": ["a", "b", 3]}, r"classes\[2\]: expected text, got 3"),
    "a class that UTF-8 cannot hold": ({"classes": ["a", "b", "\ud800"]}, "expected text that UTF-8 can hold"),
    "a digest that is none": ({"digest": "0" * 63}, "expected hashes of 64 hexadecimal digits"),
    "a digest that is a list": ({"digest": []}, "digest: expected text, got a JSON list"),
    "chunks that are no hashes": ({"chunk_sha256": ["x"]}, "expected hashes of 64 hexadecimal digits"),
    "chunks that are no list": ({"chunk_sha256": {}}, "chunk_sha256: expected a list"),
    "another digest": ({"digest": "0" * 64}, "is not the file that its manifest was made for"),
    "other classes": ({"classes": ["a", "c", "b"]}, "is not the file that its manifest was made for"),
    "a rejected file without a reason": ({"rejected": [["a"]]}, r"rejected\[0\]: expected a list of 2, got one of 1"),
    "rejected files that are texts": ({"rejected": ["ab"]}, r"rejected\[0\]: expected a list, got 'ab'"),
    "no sides": ({"side": {}}, "side: expected max, mean"),
    "sides of text": ({"side": {"max": "1", "mean": 1}}, r"side\.max: expected a number, got '1'"),
    "no pixels": ({"pixels": None}, "pixels: expected an object, got None"),
    "pixels without the largest": ({"pixels": {"total": 9}}, "pixels: expected largest, total"),
    "no index": ({"index_sha256": None}, "index_sha256: expected text, got None"),
    "no time": ({"seconds": ...}, "missing or unknown: seconds"),
    "a field too many": ({"colour": "red"}, "missing or unknown: colour"),
    "the old format": ({"format": 1}, "expected format 2, got 1"),
    "no format": ({"format": ...}, "expected format 2, got None"),
}


@pytest.fixture
def beton(tmp_path):
    convert(Dataset(9, lambda i: (np.full((8, 8, 3), i, np.uint8), i % 3), ("a", "b", "c")), tmp_path / "a.beton")
    return tmp_path / "a.beton"


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_refused_in_a_line(beton, what):
    change, message = WRONG[what]
    rewrite(manifest_path(beton), **change)
    with pytest.raises(InputError, match=message) as refused:
        open_beton(beton)
    assert "\n" not in str(refused.value)
    assert "run pipeline.convert again" in str(refused.value)


@pytest.mark.parametrize("text", [
    b"", b"{", b"[]", b"3", b"null", b"\0" * 50, b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'{"format": NaN}',
    b'{"format": 2}', b'{"format": 2, "format": 2}', b'{"format": 1e999}', b'{"n": ' + b"9" * 5000 + b"}",
])  # fmt: skip
def test_what_is_no_manifest_is_refused_in_a_line(beton, text):
    manifest_path(beton).write_bytes(text)
    with pytest.raises(InputError, match="cannot be read as a manifest") as refused:
        open_beton(beton)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_change_without_a_new_checksum_is_noticed(beton):
    path = manifest_path(beton)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class_counts": [1, 4, 4]}))
    with pytest.raises(InputError, match="its checksum is wrong"):
        open_beton(beton)


def test_no_flipped_bit_gives_another_manifest(beton):
    path, known, draw = manifest_path(beton), read_manifest(beton), random.Random(0)
    whole, refused = path.read_bytes(), 0
    for _ in range(1000):
        at, bit = draw.randrange(len(whole)), draw.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        try:
            assert read_manifest(beton) == known
        except InputError:
            refused += 1
    assert refused > 900


def test_a_manifest_that_is_no_regular_file_is_none(beton):
    path = manifest_path(beton)
    path.unlink()
    os.mkfifo(path)  # reading it would wait for ever
    with pytest.raises(InputError, match=r"has no manifest a\.beton\.json beside it"):
        open_beton(beton)


def test_a_file_that_may_not_be_read_is_one_line(beton, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.store.beton.read_layout", refuse)
    with pytest.raises(InputError, match=r"a\.beton cannot be read: Permission denied"):
        open_beton(beton)
