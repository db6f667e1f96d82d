"""Cells become classes: numbers, names, and what means that there is no label."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.sources.cells.label_cells import labels_of


def named(cells: list[str], *missing: str) -> list[str | None]:
    """The name of the class of each cell, None where it has none."""
    found = labels_of(cells, missing, "t.csv")
    return [None if number < 0 else found.classes[number] for number in found.numbers]


@pytest.mark.parametrize(
    "word", ["", "nan", "NaN", "NAN", "null", "NULL", "N/A", "n/a", "<NA>", "-1", "-1.0", "?", "NA", "None"]
)
def test_words_for_no_label_are_none_among_names_and_among_numbers(word):
    for a, b in (("cat", "dog"), ("0", "1"), ("1.0", "2.0")):
        found = labels_of([a, word, b, word, b], (), "t.csv")
        assert found.numbers.tolist() == [0, -1, 1, -1, 1]
        assert len(found.classes) == 2
        assert found.notes == (f"rows without a label: 2 ({word or 'empty'} 2)",)


@pytest.mark.parametrize(("cells", "class_"), [
    (["DE", "NA", "FR"], "NA"),  # Namibia
    (["Mild", "None", "Severe"], "None"),
    (["none", "mild", "severe"], "none"),
    (["MEL", "NV", "NA"], "NA"),
])  # fmt: skip
def test_a_class_that_is_called_like_a_missing_label_stays_and_is_said(cells, class_):
    assert named(cells) == cells
    assert any(note.startswith(f"{class_} (1 row) is taken for a class") for note in labels_of(cells, (), "").notes)
    assert named(cells, class_) == [None if cell == class_ else cell for cell in cells]


@pytest.mark.parametrize(("cells", "sounds"), [
    (["cat", "unknown", "dog"], "unknown"), (["cat", "Not labeled", "dog"], "'Not labeled'"), (["-", "cat"], "-"),
    (["0", "255", "1"], "255"), (["99", "1", "2"], "99"),
])  # fmt: skip
def test_a_class_that_sounds_like_no_label_stays_and_is_said(cells, sounds):
    note = f"{sounds.strip(chr(39))} (1 row) is taken for a class; --missing {sounds} if it means no label"
    assert named(cells) == cells
    assert note in labels_of(cells, (), "").notes
    assert named(cells, sounds.strip("'")) == [None if cell == sounds.strip("'") else cell for cell in cells]


def test_numbers_among_numbers_are_no_codes_for_missing_labels():
    cells = [str(i) for i in range(256)]
    assert labels_of(cells * 3, (), "").notes == ()


def test_named_words_replace_the_usual_ones():
    assert named(["cat", "unsure", "dog", "", "nan"], "unsure") == ["cat", None, "dog", None, "nan"]
    assert named(["1", "-1"], "-1") == ["1", None]
    assert "--missing: no row has sure" in labels_of(["cat", "dog"], ("sure",), "").notes


@pytest.mark.parametrize(("cells", "classes"), [
    (["1", "2", "3", "1"], ("1", "2", "3")),
    (["0", "2", "1"], ("0", "1", "2")),
    (["0.0", "1.0", "nan", "-1.0"], ("0", "1")),
    (["1.000000e+00", "0.000000e+00"], ("0", "1")),  # as numpy.savetxt writes numbers
    (["10", "9", "8", "7", "6", "5", "4", "3", "2", "1"], tuple(str(i) for i in range(1, 11))),  # by size
    (["0", "255", "0"], ("0", "255")),
    (["2480528", "17", "17", "2480528"], ("17", "2480528")),  # numbers of species
    (["01", "02", "10"], ("01", "02", "10")),
    (["True", "False"], ("False", "True")),
    (["7", "dog"], ("7", "dog")),
    (["caf\u00e9", "cafe\u0301"], ("caf\u00e9",)),
    (["1", "1", "4", "3"], ("1", "2", "3", "4")),
])  # fmt: skip
def test_classes_of_a_column(cells, classes):
    assert labels_of(cells, (), "t.csv").classes == classes


def test_a_class_number_that_no_row_has_is_a_class_without_an_image():
    found = labels_of(["0", "2", "1", "4"], (), "t.csv")
    assert found.classes == ("0", "1", "2", "3", "4")
    assert found.notes == ("class numbers that no row has are classes without an image: 3",)


@pytest.mark.parametrize(("cells", "message"), [
    (["-5", "2"], "expected class numbers from 0, got -5 for 2 rows; if it means no label, see --missing"),
    (["99999999"], "expected class numbers, got 99999999 for 1 row"),
    (["9" * 30], "expected class numbers of up to 15 digits"),
    (["9" * 100_000], "expected class numbers, got one of 100000 characters"),
    (["1.0e400", "0"], "got 1.0e400, which is a measure"),
    (["0.5", "1"], "got 0.5, which is a measure"),
    (["x" * 300, "cat"], "expected class names of 1 to 255 characters"),
    (["1", "01"], "has both 1 and 01"),
    (["1", "-1", "1"], "its labels are 1 and -1; add --missing -1"),
])  # fmt: skip
def test_what_is_no_class_is_refused_in_a_line(cells, message):
    with pytest.raises(InputError, match=message) as caught:
        labels_of(cells, (), "t.csv")
    assert "\n" not in str(caught.value)


def test_a_column_without_labels_has_no_classes():
    found = labels_of(["", "nan"], (), "t.csv")
    assert (found.classes, found.numbers.tolist()) == (None, [-1, -1])


def test_more_classes_than_images_can_have_are_worth_a_word():
    cells = [f"patient {i}" for i in range(20)]
    assert "20 classes for 20 labelled rows: is this the label column?" in labels_of(cells, (), "t.csv").notes


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs"]), max_size=8), max_size=30))
def test_whatever_the_cells_are_each_has_its_own_class_or_none_or_all_are_refused(cells):
    refused = ""
    try:
        found = labels_of(cells, (), "t.csv")
    except InputError as error:
        refused = str(error)
    assert "\n" not in refused
    if refused:
        return
    assert len(found.numbers) == len(cells)
    assert (found.numbers < len(found.classes or ())).all()
    for a, number in zip(cells, found.numbers, strict=True):
        assert np.flatnonzero(found.numbers == number).size >= cells.count(a)


def test_pandas_and_csv_write_what_is_read_back(tmp_path):
    """Cells as the csv module writes Python's values."""
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[value] for value in (1.0, 2, float("nan"), None, "2.0")])
    with path.open(newline="") as file:
        cells = ["".join(row) for row in csv.reader(file)]
    assert labels_of(cells, (), "t.csv").numbers.tolist() == [0, 1, -1, -1, 1]
