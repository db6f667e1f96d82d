"""The picture of images with their labels: a wrong label is seen, and what is not drawn is said."""

import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.convert.conversion import convert
from pipeline.preview import __main__ as door
from pipeline.preview import labels
from pipeline.preview.labels import GAP, MARGIN, SIDE, label_rows, label_sheet
from pipeline.sources.objects import Dataset
from pipeline.store.beton import open_beton

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]


def made(tmp_path, marks: list[int], names: tuple[str, ...] | None, colours: list[int] | None = None):
    """A file of plain images: of colour `colours[i]`, with label `marks[i]`."""
    shown = marks if colours is None else colours
    source = Dataset(
        len(marks),
        lambda i: (Image.new("RGB", (64, 48), COLOURS[shown[i]]), None if names is None else marks[i]),
        names,
    )
    convert(source, tmp_path / "a.beton")
    return open_beton(tmp_path / "a.beton")


def cells(page: Image.Image, rows: int, images: int) -> list[list[int | None]]:
    """The number of the colour in the middle of each cell, None where the page is white."""
    pixels, found = np.asarray(page).astype(int), []
    for row in range(rows):
        found.append([])
        for column in range(images):
            y, x = GAP + row * (SIDE + GAP) + SIDE // 2, MARGIN + column * (SIDE + GAP) + SIDE // 2
            near = [np.abs(pixels[y, x] - colour).max() < 40 for colour in COLOURS]
            found[-1].append(near.index(True) if any(near) else None)
    return found


def test_a_row_has_the_images_that_carry_its_label_and_the_last_row_those_without_one(tmp_path):
    beton = made(
        tmp_path, [0] * 9 + [1] * 3 + [2] * 8 + [-1] * 2, ("ant", "bee", "cat"), [0] * 9 + [1] * 3 + [2] * 8 + [3] * 2
    )
    found = label_rows(beton, 8, 20)
    assert [(row.number, row.name, row.count, len(row.pictures)) for row in found.rows] == [
        (0, "ant", 9, 8), (1, "bee", 3, 3), (2, "cat", 8, 8), (None, "without a label", 2, 2)
    ]  # fmt: skip
    page = label_sheet(found)
    assert page.size == (MARGIN + 8 * (SIDE + GAP) + GAP, 4 * (SIDE + GAP) + GAP)
    nothing = None
    assert cells(page, 4, 8) == [[0] * 8, [1] * 3 + [nothing] * 5, [2] * 8, [3] * 2 + [nothing] * 6]


def test_images_that_carry_anothers_label_are_seen_in_its_row(tmp_path):
    beton = made(tmp_path, [0, 0, 1, 1], ("ant", "bee"), [1, 1, 0, 0])  # the columns of a table were swapped
    assert cells(label_sheet(label_rows(beton, 2, 20)), 2, 2) == [[1, 1], [0, 0]]


def test_images_are_taken_from_the_first_to_the_last(tmp_path, monkeypatch):
    beton, decoded = made(tmp_path, [0] * 30, ("ant",)), []
    monkeypatch.setattr(labels, "read_pixels", lambda _, i: decoded.append(int(i)))
    label_rows(beton, 4, 1)
    assert decoded == [0, 9, 19, 29]


def test_of_many_classes_some_are_drawn_at_even_distances_and_the_others_are_said(tmp_path):
    marks = list(range(4)) * 2 + [-1]
    names = tuple(f"class {i}" for i in range(101))
    beton = made(tmp_path, [25 * mark if mark >= 0 else -1 for mark in marks], names, [max(mark, 0) for mark in marks])
    found = label_rows(beton, 2, 5)
    assert [(row.number, row.count) for row in found.rows] == [(0, 2), (25, 2), (50, 2), (75, 2), (100, 0), (None, 1)]
    assert found.said(beton.path) == (
        f"5 of 101 classes of {beton.path}, up to 2 images of each, and of the 1 without a label; "
        "96 classes not drawn: --classes 101 draws all"
    )
    assert [row.number for row in label_rows(beton, 2, 101).rows] == [*range(101), None]
    assert "not drawn" not in label_rows(beton, 2, 101).said(beton.path)
    assert [row.number for row in label_rows(beton, 2, 1).rows] == [0, None]


def test_a_file_without_classes_has_one_row(tmp_path):
    beton = made(tmp_path, [0] * 5, None)
    found = label_rows(beton, 8, 20)
    assert [(row.number, row.count, len(row.pictures)) for row in found.rows] == [(None, 5, 5)]
    assert cells(label_sheet(found), 1, 8) == [[0] * 5 + [None] * 3]


def test_an_image_that_no_longer_decodes_leaves_its_cell_empty(tmp_path):
    beton = made(tmp_path, [0] * 3, ("ant",))
    data = bytearray(beton.path.read_bytes())
    at = beton.offsets[1] + beton.sizes[1] - 40
    data[at : at + 40] = bytes(40)
    beton.path.write_bytes(data)
    found = label_rows(open_beton(beton.path), 3, 1)
    assert [picture is None for picture in found.rows[0].pictures] == [False, True, False]
    assert [cell is None for cell in cells(label_sheet(found), 1, 3)[0]] == [False, True, False]


def test_the_name_of_a_class_is_drawn_whole_up_to_five_lines_and_its_length_said_beyond(tmp_path):
    row = labels.Row(3, "a very long name " * 20, 1_234, [])
    lines = labels._text(row)
    assert lines[-2:] == ["... (340 characters)", "class 3, 1,234 images"]
    assert len(lines) == 6
    assert labels._text(labels.Row(0, "n" * 30, 1, [])) == ["n" * 24, "n" * 6, "class 0, 1 image"]
    assert labels._text(labels.Row(0, "\u65e5\u672c \u0416", 0, [])) == ["\u65e5\u672c \u0416", "class 0, 0 images"]
    label_sheet(labels.LabelRows([row, labels.Row(0, "\u65e5\u672c \u0416", 0, [])], 2, 8))  # whatever the font has


def test_the_command_writes_the_picture_and_says_what_is_not_on_it(tmp_path, monkeypatch, capsys):
    beton = made(tmp_path, [0, 1, 2, 3], ("a", "b", "c", "d"))
    (tmp_path / "set").mkdir()
    for suffix in ("", ".json", ".names"):
        beton.path.with_name(f"a.beton{suffix}").rename(tmp_path / "set" / f"train.beton{suffix}")
    out = tmp_path / "labels.png"
    monkeypatch.setattr(
        sys, "argv", ["preview", str(tmp_path / "set"), "--labels", "--classes", "2", "--out", str(out)]
    )
    door.main()
    assert capsys.readouterr().out == (
        f"{out}: 2 of 4 classes of {tmp_path / 'set' / 'train.beton'}, up to 8 images of each; "
        "2 classes not drawn: --classes 4 draws all\n"
    )
    with Image.open(out) as page:
        assert cells(page.convert("RGB"), 2, 1) == [[0], [3]]


@pytest.mark.parametrize("suffix", ["webp", "jpg"])
def test_a_picture_that_is_too_large_for_its_format_is_one_line(tmp_path, suffix, monkeypatch):
    from pipeline.errors import InputError
    from pipeline.preview.picture import save

    with pytest.raises(InputError, match="cannot be written: "):
        save(Image.new("RGB", (1, 70_000)), str(tmp_path / f"a.{suffix}"))
