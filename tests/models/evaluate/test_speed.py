"""The comparison with the loader: shares by hand, and all of it on a few pictures."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from models.evaluate import speed
from models.evaluate.speed import ACCURACY, LOADER, PREDICT, shares
from pipeline.bench.rounds import Turn
from pipeline.errors import InputError


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 5, 3), np.uint8)
        Image.fromarray(pixels).resize((40 + 8 * i, 50)).save(folder / f"{i}.jpg")
    return folder


def asked(monkeypatch, *argv: object) -> None:
    monkeypatch.setattr(sys, "argv", ["speed", *map(str, argv)])
    speed.main()


def test_a_share_is_the_median_of_the_ratios_of_each_round():
    """The machine slows down from round to round; of three ratios the middle one counts, not that of the medians."""
    turns = {LOADER: [Turn(8, 0), Turn(4, 0), Turn(2, 0)], ACCURACY: [Turn(8, 0), Turn(4, 0), Turn(2, 0)],
             PREDICT: [Turn(4, 0), Turn(1, 0), Turn(1, 0)]}  # fmt: skip
    assert shares(turns) == pytest.approx({ACCURACY: 1.0, PREDICT: 0.5})


def test_every_case_goes_through_every_image(photographs, tmp_path):
    a = speed.Arguments(photographs, size=16, batch=2)
    assert speed.convert_photographs(photographs, tmp_path).n == 5
    with speed.cases(a, tmp_path) as cases:
        assert {name: case() for name, case in cases.items()} == dict.fromkeys((LOADER, ACCURACY, PREDICT), 5)


def test_it_prints_rates_and_shares_of_the_machine(photographs, monkeypatch, capsys):
    asked(monkeypatch, photographs, "--size", 16, "--batch", 4, "--rounds", 1, "--json")
    found = json.loads(capsys.readouterr().out)
    assert set(found["rates"]) == {LOADER, ACCURACY, PREDICT}
    assert found["where"]["images"] == "5"
    assert set(found["shares"]) == {ACCURACY, PREDICT}


def test_what_cannot_be_measured_is_said(photographs, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="--rounds of 1 or more"):
        asked(monkeypatch, photographs, "--rounds", 0)
    for path in list(photographs.iterdir())[1:]:
        path.unlink()
    with pytest.raises(InputError, match="expected 2 images or more, found 1"):
        asked(monkeypatch, photographs)
