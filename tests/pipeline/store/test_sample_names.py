"""Names of any bytes become one line of UTF-8, and come back from it."""

import os

from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.sample_names import escape, printable, unescape


@given(st.text(st.characters(codec=None)))
def test_any_name_comes_back_from_one_line_of_utf8(name):
    escaped = escape(name)
    assert unescape(escaped) == name
    assert len((escaped + "x").splitlines()) == 1
    assert escaped.encode("utf-8").decode("utf-8") == escaped
    assert printable(escaped) == escaped


@given(st.binary(max_size=20))
def test_a_name_of_any_bytes_comes_back_as_these_bytes(name):
    assert os.fsencode(unescape(escape(os.fsdecode(name)))) == name


def test_a_name_is_escaped_as_python_writes_it():
    assert escape(os.fsdecode(b"caf\xe9.jpg")) == r"caf\xe9.jpg"
    assert escape("a\nb\tc\\d\x1b[31m") == r"a\nb\tc\\d\u001b[31m"
    assert escape("Brötchen 猫 👍🏽") == "Brötchen 猫 👍🏽"
    assert printable("a\\b\n") == "a\\b\\n"
    assert escape("a\u2028b\x85c") == r"a\u2028b\u0085c"
