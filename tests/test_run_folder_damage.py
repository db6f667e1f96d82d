"""What a run folder may hold when its run is resumed: damaged rows, names of another kind, other data."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.config.resolve import resolve
from models.distributed.process_group import World
from models.records import events, metrics, run_folder
from models.records.run_folder import FILES, FOLDERS
from models.reporting import figures
from models.reporting.journal import _truncate
from models.reporting.report import speed, write_report
from models.training.preflight import open_run
from pipeline.errors import InputError
from tests.conftest import TINY

SUPERVISED = "supervised:digits"
ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, digits) -> Path:
    """The folder of a run of 12 steps that stopped after 9 of them, and evaluated twice."""
    import train

    folder = tmp_path_factory.mktemp("stopped") / "run"
    flags = [*TINY, f"--data.root={digits}", f"--run.folder={folder}", "--run.evaluate-steps=3", "--run.stop-step=9"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", SUPERVISED, *flags])
        assert train.main() == 75
    return folder


@pytest.fixture
def run(stopped, tmp_path) -> Path:
    """A copy of that folder, to be damaged."""
    return shutil.copytree(stopped, tmp_path / "run")


def copy_train_to_val(data: Path) -> None:
    """Put train.beton, with the files beside it that describe it, in the place of val.beton."""
    for path in data.glob("train.beton*"):
        shutil.copy(path, data / path.name.replace("train", "val"))


def recipe_of(digits: Path, folder: Path):
    return resolve(SUPERVISED, [*TINY, f"--data.root={digits}", f"--run.folder={folder}"])


def resume(folder: Path, recipe) -> str | None:
    """What a resume does with the records of a folder, but for the training; -> the refusal, or None."""
    try:
        run_folder.finished_line(folder, recipe)
        os.close(run_folder.claim(folder, recipe))
        run_folder.damaged_rows(folder)
        rows = _truncate(folder, 9)
        speed(rows), figures.evaluations(rows)
        max((row["timing"]["elapsed_s"] for row in rows if "timing" in row), default=0.0)
        events.latest(folder, "backend")
        return None
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("name", [metrics.FILE, events.FILE, "recipe.json"])
def test_a_flipped_bit_is_noted_or_refused_in_one_line(name: str, run: Path, digits: Path, monkeypatch) -> None:
    recipe, path, random = recipe_of(digits, run), run / name, np.random.default_rng(1)
    whole = {each: (run / each).read_bytes() for each in (metrics.FILE, "recipe.json")}
    kept, before = path.read_bytes(), len(path.read_bytes().splitlines())
    monkeypatch.setattr(run_folder, "write_whole", lambda path, content: None)  # the damage stays for the next look
    noted = 0
    for number in range(400):
        for each, data in whole.items():
            (run / each).write_bytes(data)
        data = bytearray(kept)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        path.write_bytes(data)
        notes = run_folder.damaged_rows(run)
        noted += bool(notes)
        refusal = resume(run, recipe)
        assert refusal is None or (name == "recipe.json" and "\n" not in refusal), (number, refusal)
        assert all("\n" not in note and f"{path}: " in note for note in notes)
        assert len(notes) <= 1
    assert noted > 0 or name == "recipe.json"
    assert before >= 3


def test_a_run_with_bad_rows_goes_on_and_says_which(run: Path, digits: Path, tiny, capsys) -> None:
    lines = (run / metrics.FILE).read_bytes().splitlines(keepends=True)
    rows = len(lines)
    lines[1] = lines[1].replace(b'"step"', b'"s\xf4ep"')
    (run / metrics.FILE).write_bytes(b"".join(lines))
    with open(run / events.FILE, "ab") as file:
        file.write(b'{"time": "late", "event": "stopped"}\n')
    capsys.readouterr()
    assert tiny(SUPERVISED, run, "--run.evaluate-steps=3", report=True) == 0
    said = capsys.readouterr().out.splitlines()
    assert f"{run / metrics.FILE}: 1 of {rows} lines are damaged and left out: line 2 (not UTF-8)" in said
    assert any("(time is str, expected int or float)" in line for line in said)
    assert (run / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "{", '{"data": 3, "name": []}', "{}", "\udcff"])
def test_a_recipe_of_another_type_is_one_line(content: str, run: Path, digits: Path) -> None:
    (run / "recipe.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError) as caught:
        run_folder.check_same_recipe(run, recipe_of(digits, run))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_a_folder_where_a_run_has_a_file_is_refused_before_training(name: str, run: Path, digits: Path) -> None:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if name in FILES:
        path.mkdir()
    else:
        path.write_text("")
    with pytest.raises(InputError, match=f"{name}: expected a") as caught:
        run_folder.finished_line(run, recipe_of(digits, run))
    assert "\n" not in str(caught.value)


def test_failures_of_another_shape_are_left_out(run: Path) -> None:
    from models.records import failures

    (run / "failed").mkdir(exist_ok=True)
    for name, content in (("rank-x.json", "{}"), ("rank-1.json", "[]"), ("rank-2.json", '{"time": "a"}')):
        (run / "failed" / name).write_text(content)
    (run / "failed" / "rank-0.json").mkdir()
    assert failures.first_cause(run) is None
    failures.FailureLog(run, 0, 1).run_began()
    assert not (run / "failed" / "rank-2.json").exists()


def test_another_val_file_at_resume_is_refused(run: Path, digits: Path, tmp_path: Path) -> None:
    data = shutil.copytree(digits, tmp_path / "data")
    open_run(recipe_of(data, run), ALONE)
    copy_train_to_val(data)
    with pytest.raises(InputError, match=r"was evaluated on another val file than .*val\.beton now is") as caught:
        open_run(recipe_of(data, run), ALONE)
    assert "\n" not in str(caught.value)


def test_a_val_file_that_is_a_copy_of_train_is_remarked_on(digits: Path, tmp_path: Path) -> None:
    data = shutil.copytree(digits, tmp_path / "data")
    assert open_run(recipe_of(data, tmp_path / "run"), ALONE).notes == ()
    copy_train_to_val(data)
    (note,) = open_run(recipe_of(data, tmp_path / "run"), ALONE).notes
    assert f"{data}/val.beton holds the same images as {data}/train.beton" in note


def test_the_report_of_rows_with_a_gap_is_written(run: Path) -> None:
    rows = [row for row in metrics.read(run) if "evaluation" not in row][1:]
    page = write_report(run, recipe_name="x", rows=rows, final=[], pictures=[], verdict="-")
    assert json.loads((run / "recipe.json").read_text())["name"] == SUPERVISED
    assert page.exists()


def test_a_run_that_goes_on_with_other_threads_or_ranks_says_where_exactness_ends(run, digits, monkeypatch):
    recipe = recipe_of(digits, run)
    assert not [note for note in open_run(recipe, ALONE).notes if "to the bit" in note]
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    (note,) = [note for note in open_run(recipe, ALONE).notes if "to the bit" in note]
    assert f"so far this run had 1 rank(s) of {threads} CPU thread(s)" in note
    assert f"it goes on with 1 rank(s) of {threads + 1} CPU thread(s)" in note
