"""JSON that is noticed when it changes, and read by strict types."""

import contextlib
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.checksummed_json import content, parsed, to_text
from pipeline.store.json_types import typed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=10,
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(max_size=8).filter(lambda name: name not in ("sha256", "format")), VALUES)


@given(OBJECTS, st.sampled_from([None, 1]))
def test_what_was_written_comes_back(found, indent):
    text = to_text({"format": 7, **found}, indent)
    assert text.isascii()
    assert content(text.encode(), 7) == {"format": 7, **found}
    spaced = text.replace("\n", "\r\n   ")  # spaces and line ends are no content
    assert content(spaced.encode(), 7) == {"format": 7, **found}
    with pytest.raises(ValueError, match="expected format 8, got 7"):
        content(text.encode(), 8)


def test_a_flipped_bit_is_noticed_or_changes_nothing():
    found = {"format": 2, "a": [1, 2.5, "ab", None, True], "b": {"c": "\u00e9", "d": -0.0}}
    text, draw, equal = to_text(found, 1).encode(), random.Random(0), 0
    for at in range(len(text)):
        for bit in range(8):
            changed = text[:at] + bytes([text[at] ^ 1 << bit]) + text[at + 1 :]
            try:
                assert content(changed, 2) == found
                equal += 1
            except ValueError:
                pass
    assert equal < len(text)  # of eight flips a byte
    for _ in range(2000):  # several at once
        changed = bytearray(text)
        for at in draw.choices(range(len(text)), k=3):
            changed[at] = draw.randrange(256)
        with contextlib.suppress(ValueError):
            assert content(bytes(changed), 2) == found


@pytest.mark.parametrize(("text", "message"), [
    (b"", "Expecting value"), (b"{", "Expecting property name"), (b"\xff", "can't decode byte 0xff"),
    (b"\xef\xbb\xbf{}", "BOM"), (b"[" * 200_000, "nested too deeply"), (b'[{"a":' * 200_000, "nested too deeply"),
    (b'{"a": 1, "b": 2, "a": 1}', "'a' stands in it twice"), (b"[NaN]", "finite numbers, got NaN"),
    (b"[Infinity]", "got Infinity"), (b"[-Infinity]", "got -Infinity"), (b"[1e400]", "got 1e400"),
    (b"[-1e400]", "got -1e400"), (b"[" + b"1" * 5000 + b"]", "4300 digits"), (b'["\0"]', "Invalid control character"),
    (b"\0", "Expecting value"), (b"{} {}", "Extra data"), ("{}".encode("utf-16"), "can't decode byte 0xff"),
])  # fmt: skip
def test_what_is_no_json_is_a_value_error_of_one_line(text, message):
    with pytest.raises(ValueError, match=message) as refused:
        parsed(text)
    assert "\n" not in str(refused.value)


def test_other_json_is_no_object():
    for text in ("[]", "3", '"x"', "null", "true"):
        with pytest.raises(ValueError, match="expected a JSON object, got a JSON"):
            content(text.encode(), 1)


@pytest.mark.parametrize(("value", "hint", "message"), [
    (True, int, "x: expected a whole number, got True"), (1.0, int, r"x: expected a whole number, got 1\.0"),
    ("1", int, "x: expected a whole number, got '1'"), (None, int, "x: expected a whole number, got None"),
    (2**63, int, "expected a number of 64 bits, got one of 19 digits"), (-(2**63), int, "64 bits"),
    (True, float, "x: expected a number, got True"), ("1", float, "x: expected a number, got '1'"),
    (10**400, float, "expected a number of 64 bits, got one of 401 digits"), (1, bool, "expected true or false, got 1"),
    (1, str, "x: expected text, got 1"), ("\udcff", str, "x: expected text that UTF-8 can hold"),
    (["a", 1], tuple[str, ...], r"x\[1\]: expected text, got 1"), ("ab", tuple[str, ...], "x: expected a list, got"),
    ([1, "2"], tuple[int, ...], r"x\[1\]: expected a whole number, got '2'"),
    ([1, True], tuple[int, ...], r"x\[1\]: expected a whole number, got True"),
    ([1, 2**63], tuple[int, ...], r"x\[1\]: expected a number of 64 bits"),
    (["a"], tuple[str, str], "x: expected a list of 2, got one of 1"), ([], dict[str, int], "x: expected an object"),
    ({"a": 1.5}, dict[str, int], r"x\.a: expected a whole number, got 1\.5"),
    ([["a", 1]], tuple[tuple[str, str], ...], r"x\[0\]\[1\]: expected text, got 1"),
    ("x" * 99, int, r"got 'x{39}\.\.\.$"),
])  # fmt: skip
def test_a_value_of_another_type_is_refused(value, hint, message):
    with pytest.raises(ValueError, match=message):
        typed(value, hint, "x")


@pytest.mark.parametrize(("value", "hint", "expected"), [
    ([], tuple[int, ...], ()), ([1, -(2**63) + 1, 2**63 - 1], tuple[int, ...], (1, -(2**63) + 1, 2**63 - 1)),
    (None, int | None, None), (3, int | None, 3), (3, float, 3), ([["a", "b"]], tuple[tuple[str, str], ...],
     (("a", "b"),)), ({"a": [1]}, dict[str, Any], {"a": [1]}), (["a"], tuple[str, ...] | None, ("a",)),
])  # fmt: skip
def test_a_value_of_the_type_comes_back_with_tuples_for_lists(value, hint, expected):
    assert typed(json.loads(json.dumps(value)), hint, "x") == expected
