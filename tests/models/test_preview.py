"""The picture of a recipe's own views."""

import sys

import numpy as np
import pytest
from PIL import Image

from models import preview
from models.config.resolve import resolve
from pipeline.errors import command
from pipeline.preview.views import HIDDEN
from pipeline.store.beton import open_beton


@pytest.mark.parametrize(
    ("recipe", "flags", "shown"),
    [
        ("semi_mae:digits", [], "original weak strong masked"),
        ("fixmatch:digits", [], "original weak strong"),
        ("supervised:digits", [], "original strong"),
        ("supervised:digits", ["--data.labelled-view=weak"], "original weak"),
        ("supmae:digits", [], "original weak masked"),
        ("mae:digits", [], "original weak masked"),
    ],
)
def test_the_views_that_the_method_reads_are_shown(recipe, flags, shown):
    assert " ".join(preview.columns(resolve(recipe, flags))) == shown


def test_the_views_are_those_of_the_recipe(digits):
    """Flags reach them: patches and mask of the recipe, and a strong view that does nothing."""
    flags = [f"--data.root={digits}", "--data.mask.ratio=0.25", "--encoder.patch=8", "--data.strong.augment=none",
             "--data.strong.padding=0", "--data.weak.padding=0"]  # fmt: skip
    recipe = resolve("semi_mae:digits", flags)
    for _, weak, strong, masked in preview.views(recipe, open_beton(digits / "train.beton"), np.arange(3)):
        assert np.array_equal(weak, strong)
        assert weak.shape == (16, 16, 3)
        cells = masked.reshape(2, 8, 2, 8, 3).swapaxes(1, 2).reshape(4, -1)
        assert sum((cell == HIDDEN).all() for cell in cells) == 1


def test_the_command_writes_the_picture(digits, monkeypatch, tmp_path, capsys):
    out = tmp_path / "views.png"
    words = ["preview", "mae:digits", "--images", "2", f"--data.root={digits}", "--data.size", "32", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    preview.main()
    assert f"{out}: 2 images of {digits}/train.beton, original | weak | masked" in capsys.readouterr().out
    with Image.open(out) as page:
        assert page.width > page.height


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected a recipe"),
        (["mea:digits"], "did you mean mae:digits?"),
        (["mae:digits", "--data.sise=3"], "no field --data.sise; did you mean --data.size?"),
        (["mae:digits", "--out=a.txt"], "expected a name that ends in"),
        (["mae:digits", "--encoder.patch=9"], "patches of 9 pixels do not divide views of 16"),
        (["mae:digits", "--data.mask.ratio=0"], "mask ratio 0 leaves"),
    ],
)
def test_wrong_input_is_one_line(words, said, digits, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["preview", *words, *([f"--data.root={digits}"] if words else [])])
    with pytest.raises(SystemExit) as ended:
        command(preview.main)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
