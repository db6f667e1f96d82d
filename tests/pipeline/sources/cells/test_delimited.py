"""Texts of every encoding become rows, or are refused in a line."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.sources.cells.delimited import DELIMITERS, decode, parsed

TEXT = "path,label\r\na.jpg,café\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "latin-1"])
def test_a_text_of_any_usual_encoding_is_read(encoding):
    assert decode(TEXT.encode(encoding))[0] == TEXT
    assert decode(b"\xfe\xff" + TEXT.encode("utf-16-be"))[0] == TEXT
    assert decode("path,label".encode("utf-16-le"))[0] == "path,label"
    assert decode("path,label".encode("utf-16-be"))[0] == "path,label"


def test_an_encoding_that_is_a_guess_is_said():
    assert decode(TEXT.encode("latin-1"))[1] == "cp1252"
    assert decode(b"caf\xe9\x81")[1] == "latin-1"
    assert decode(TEXT.encode())[1] == "utf-8"


@pytest.mark.parametrize(("blob", "message"), [
    (b"a.jpg,c\0at", "a NUL byte on line 1"), (b"a\nb\x01", "the control character 1 on line 2"),
    (b"PK\x03\x04\0\0" * 50, "expected text in UTF-8"), (b"\xff\xfea", "expected text in UTF-8"),
    (bytes(range(256)) * 40, "expected text in UTF-8"), (b"\xef\xbb\xbf\xff", "expected text in UTF-8"),
])  # fmt: skip
def test_what_is_no_text_is_refused(blob, message):
    with pytest.raises(InputError, match=message):
        decode(blob)


@given(st.binary(max_size=60))
def test_whatever_the_bytes_are_they_are_text_or_refused(blob):
    text, refused = "", ""
    try:
        text, _ = decode(blob)
    except InputError as error:
        refused = str(error)
    assert "\n" not in refused
    assert "\0" not in text


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=6)


@pytest.mark.parametrize("delimiter", DELIMITERS)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6), quoting=st.sampled_from([0, 1]))
def test_rows_that_the_csv_module_writes_come_back(delimiter, rows, quoting):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=quoting).writerows(rows)
    assert parsed(out.getvalue(), delimiter).rows == [list(row) for row in rows]


@pytest.mark.parametrize(("text", "message"), [
    ('a,"b\nc,d\n', "line 2: unexpected end of data"), ("a," + "x" * 200_000, "line 1: field larger than field limit"),
    ("a," + "x" * 120_000, "line 1: a cell has 120,000 characters"), ('"a"b,c', "line 1: ',' expected after"),
])  # fmt: skip
def test_rows_that_are_no_rows_are_refused_with_their_line(text, message):
    with pytest.raises(InputError, match=message):
        parsed(text, ",")


def test_lines_are_counted_through_blank_ones_and_quoted_breaks():
    table = parsed('a,b\n\n"c\nd",e\n , \nf,g\n', ",")
    assert table.rows == [["a", "b"], ["c\nd", "e"], ["f", "g"]]
    assert table.lines == [1, 4, 6]
