"""A run over a file in which images no longer decode: it goes on, counts, says so, and resumes to the same weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.backends import dali_pipe
from pipeline.errors import InputError
from pipeline.labels.splits import load_split
from pipeline.store.beton import open_beton
from tests.conftest import rows, same, weights


@pytest.fixture(scope="module")
def damaged(digits, tmp_path_factory) -> Path:
    """The digits with three labelled images overwritten: a labelled batch holds one now and then."""
    root = tmp_path_factory.mktemp("damaged") / "digits"
    shutil.copytree(digits, root)
    beton = open_beton(root / "train.beton")
    with open(beton.path, "r+b") as file:
        for i in load_split(beton, "5-per-class").labelled[[3, 20, 41]]:
            file.seek(int(beton.offsets[int(i)]) + 20)
            file.write(bytes(int(beton.sizes[int(i)]) - 20))
    return root


@pytest.mark.parametrize("backend", ["ffcv", "dali"])
def test_a_run_goes_on_counts_and_resumes_where_images_no_longer_decode(backend, damaged, tiny, tmp_path, capsys):
    if backend == "dali":
        try:
            dali_pipe.load()
        except InputError as missing:
            pytest.skip(str(missing))
    flags = [f"--data.root={damaged}", f"--data.backend={backend}", "--data.batch=16", "--data.ratio=1"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert tiny("fixmatch:digits", whole, *flags, report=True) == 0
    said = capsys.readouterr()
    assert tiny("fixmatch:digits", parts, *flags, "--run.stop-step=4") == 75
    assert tiny("fixmatch:digits", parts, *flags) == 0
    assert rows(parts) == rows(whole)
    assert same(weights(parts), weights(whole))
    counted = sum(row.get("replaced", 0) for row in rows(whole))
    assert counted > 0
    named = [line for line in said.err.splitlines() if "no longer decodes; another image takes its place" in line]
    assert 1 <= len(named) == len(set(named)) <= 3
    assert any("replaced " in line for line in said.out.splitlines())
    page = (whole / "report.html").read_text()
    assert f"{counted} times an image that no longer decodes was replaced by another" in page
    assert f"{damaged}/train.beton" in page


def test_a_run_over_whole_files_says_nothing_of_it(tiny, tmp_path, capsys):
    assert tiny("supervised:digits", tmp_path, report=True) == 0
    assert "no longer decodes" not in (tmp_path / "report.html").read_text() + capsys.readouterr().err
    assert all("replaced" not in row for row in rows(tmp_path))


def test_a_file_of_which_much_is_gone_ends_the_run_in_a_line(damaged, digits, tiny, tmp_path):
    root = tmp_path / "digits"
    shutil.copytree(digits, root)
    beton = open_beton(root / "train.beton")
    data = np.memmap(beton.path, np.uint8, mode="r+")
    for i in range(0, beton.n, 3):
        data[int(beton.offsets[i]) + 20 : int(beton.offsets[i]) + int(beton.sizes[i])] = 0
    data.flush()
    with pytest.raises(InputError, match="images of a batch do not decode") as refused:
        tiny("supervised:digits", tmp_path / "run", f"--data.root={root}", "--data.backend=ffcv")
    assert "\n" not in str(refused.value)
