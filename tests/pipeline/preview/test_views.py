"""The picture of a data set's views, and what its command refuses."""

import errno
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.backends import libffcv
from pipeline.errors import command
from pipeline.preview import __main__ as door
from pipeline.preview import picture, views
from pipeline.spec import Data, Mask

IDS = np.array([3, 40, 11])


def run(monkeypatch, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", ["preview", *argv])
    door.main()


def full(*_) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("columns", [("original", "strong"), ("original", "weak"), ("weak", "masked")])
def test_rows_have_the_columns_that_are_asked_for(beton, columns):
    every = views.rows(beton, Data(size=32), 8, IDS)
    some = views.rows(beton, Data(size=32), 8 if "masked" in columns else 9, IDS, columns=columns)
    for row, whole in zip(some, every, strict=True):
        for shown, name in zip(row, columns, strict=True):
            assert np.array_equal(shown, whole[views.COLUMNS.index(name)])


@pytest.mark.parametrize("size", [(32, 32), (32, 16), (16, 40)])
def test_rows_are_original_weak_strong_and_masked(beton, size):
    data = Data(size=size, mask=Mask(ratio=0.75), backend="ffcv", views_on="cpu")
    found = views.rows(beton, data, 8, IDS)
    (height, width), patches = size, size[0] * size[1] // 64
    assert len(found) == 3
    for i, (original, weak, strong, masked) in zip(IDS, found, strict=True):
        assert original.shape == (beton.heights[i], beton.widths[i], 3)
        assert np.array_equal(
            original, libffcv.decode(beton.jpeg(i), *original.shape[:2])
        )  # small: nothing drawn on it
        assert weak.shape == strong.shape == masked.shape == (height, width, 3)
        cells = [
            (masked[y : y + 8, x : x + 8], weak[y : y + 8, x : x + 8])
            for y in range(0, height, 8)
            for x in range(0, width, 8)
        ]
        hidden = [(seen == views.HIDDEN).all() for seen, _ in cells]
        assert sum(hidden) == patches - patches // 4
        assert all(np.array_equal(seen, whole) for (seen, whole), out in zip(cells, hidden, strict=True) if not out)


@pytest.mark.parametrize("across", [3, 2, 5])
def test_hidden_patches_are_grey_and_visible_ones_as_they_were(across):
    image = np.random.default_rng(0).integers(0, 256, (16, 4 * across, 3), np.uint8)
    masked = views.mask(image, np.array([1, 6]), 4)
    for patch in range(4 * across):
        y, x = 4 * (patch // across), 4 * (patch % across)
        cell = masked[y : y + 4, x : x + 4]
        expected = image[y : y + 4, x : x + 4] if patch in (1, 6) else np.full((4, 4, 3), views.HIDDEN)
        assert np.array_equal(cell, expected)


def test_a_box_is_outlined_on_a_photograph_and_its_inside_is_untouched():
    image, red = np.zeros((300, 400, 3), np.uint8), (255, 0, 0)
    found = views.outlined(image, np.array([20, 50, 100, 200], np.int32), red)
    line = 400 // views.OUTLINE
    expected = np.zeros_like(image)
    expected[20:120, 50:250] = red
    expected[20 + line : 120 - line, 50 + line : 250 - line] = 0
    assert np.array_equal(found, expected)
    assert not image.any()
    small = image[:30, :40]
    assert views.outlined(small, np.array([2, 3, 9, 9], np.int32), red) is small


@pytest.mark.parametrize("side", [96, 224])
def test_the_sheet_has_a_cell_for_every_picture(side):
    pictures = [[np.full((h, w, 3), 9, np.uint8) for h, w in ((50, 80), (side, side), (400, 100))] for _ in range(2)]
    page = picture.sheet(pictures, ("a", "weak", "c"), side)
    assert page.size == (
        3 * (side + picture.GAP) + picture.GAP,
        picture.HEADING + 2 * (side + picture.GAP) + picture.GAP,
    )
    dark = (np.asarray(page)[picture.HEADING :] == 9).all(-1)
    fitted = [side * round(side * 50 / 80), side * side, side * round(side * 100 / 400)]
    assert dark.sum() == 2 * sum(fitted)


def test_the_command_writes_the_picture(beton, monkeypatch, tmp_path, capsys):
    out = tmp_path / "views.png"
    run(monkeypatch, str(beton.path), "--out", str(out), "--images", "3", "--size", "32", "--patch", "8")
    with Image.open(out) as page:
        assert page.size == (
            4 * (96 + picture.GAP) + picture.GAP,
            picture.HEADING + 3 * (96 + picture.GAP) + picture.GAP,
        )
    assert "3 images of" in capsys.readouterr().out
    run(monkeypatch, str(beton.path.parent), "--out", str(out), "--images", "1", "--size", "32", "24", "--patch", "8")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["{}/none.beton"], "no such file"),
        (["{}", "--images", "0"], "--images must be 1 or more, got 0"),
        (["{}", "--patch", "9"], "patches of 9 pixels do not divide views of 224"),
        (["{}", "--size", "224", "100"], "patches of 16 pixels do not divide views of 224 x 100"),
        (["{}", "--size", "32", "0"], "size is 0, expected at least 1"),
        (["{}", "--patch", "0"], "patch is 0, expected at least 1"),
        (["{}", "--size", "0"], "size is 0, expected at least 1"),
        (["{}", "--seed", "-1"], "seed is -1, expected 0 or above"),
        (["{}", "--labels", "--classes", "0"], "classes is 0, expected at least 1"),
        (["{}", "--labels", "--size", "32"], "--size has no meaning with --labels; leave it out"),
        (["{}", "--labels", "--images", "0"], "--images must be 1 or more, got 0"),
        (["{}", "--classes", "3"], "--classes has no meaning without --labels; leave it out"),
        (["{}", "--out", "{}/none/a.png"], "none is no folder"),
        (["{}", "--out", "{tmp}/folder.png"], "folder.png is a folder"),
        (["{}", "--out", "/proc/a.png"], "nothing can be written in /proc"),
        (["{}", "--out", "{}/a.txt"], "expected a name that ends in .png, .jpg or .webp"),
        (["{}", "--out", "/dev/full.png"], "/dev/full.png cannot be written: "),
    ],
)
def test_wrong_input_is_one_line(beton, tmp_path, monkeypatch, capsys, argv, said):
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(Image.Image, "save", full if "/dev/full.png" in argv else Image.Image.save)
    monkeypatch.setattr(sys, "argv", ["preview", *(word.format(beton.path.parent, tmp=tmp_path) for word in argv)])
    with pytest.raises(SystemExit) as ended:
        command(door.main)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_windows_are_shown_one_by_one_with_the_image_pale_around_them():
    image = np.random.default_rng(0).integers(0, 200, (16, 16, 3), np.uint8)
    visible, hidden = np.array([[0, 5], [10, 11], [1, 6]]), np.array([[1, 4], [14, 15], [2, 5]])
    page = views.masked(image, visible, hidden, 4)
    assert page.shape == (33, 33, 3)  # two by two, a pixel between them
    for window, (y, x) in enumerate([(0, 0), (0, 17), (17, 0)]):
        tile = page[y : y + 16, x : x + 16]
        for patch in range(16):
            at = np.s_[4 * (patch // 4) : 4 * (patch // 4) + 4, 4 * (patch % 4) : 4 * (patch % 4) + 4]
            if patch in visible[window]:
                assert np.array_equal(tile[at], image[at])
            elif patch in hidden[window]:
                assert (tile[at] == views.HIDDEN).all()
            else:
                assert (tile[at] >= 191).all()
    assert (page[17:, 17:] == 255).all()
