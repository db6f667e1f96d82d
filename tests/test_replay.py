"""models.replay: the step that was not finite is run again from the run's own weights, and where it broke is said."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

import train
from models import replay
from models.checkpoint import save_load
from pipeline.errors import InputError
from tests.conftest import same


def replayed(folder, capsys, monkeypatch) -> list[str]:
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["replay", str(folder), "--device", "cpu"])
    assert replay.main() == 0
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def in_this_process(monkeypatch):
    """Steps before the one that is replayed are trained here: a process of their own takes seconds to start."""

    def run(command: list, **_: object) -> SimpleNamespace:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [str(each) for each in command[1:]])
            return SimpleNamespace(returncode=train.main())

    monkeypatch.setattr(replay, "subprocess", SimpleNamespace(run=run, DEVNULL=None))


@pytest.fixture
def broken(tiny, tmp_path):
    """A run whose rate is so high that the second step breaks, with a checkpoint of before."""
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="not finite in step 1"):
        tiny("mae:digits", folder, "--optim.lr=1e30", "--optim.clip=None", "--optim.warmup-epochs=0")
    return folder


@pytest.mark.usefixtures("in_this_process")
def test_the_step_is_reached_from_the_start_and_its_first_bad_output_named(broken, capsys, monkeypatch):
    before = {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    said = "\n".join(replayed(broken, capsys, monkeypatch))
    assert "step 1 of mae:digits: 1 step from the start to it" in said
    images = json.loads((broken / "not_finite.json").read_text())["ids"]
    assert f"images {', '.join(map(str, images[:8]))}" in said
    assert "loss       not finite: pixels" in said
    assert "forward    first output that is not finite, of finite inputs: " in said
    assert {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()} == before


def test_weights_that_are_not_finite_are_named_before_all_else(tiny, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    assert tiny("mae:digits", folder, "--run.stop-step=4") == 75
    state = save_load.load(folder / "last.pt")
    state["method"]["encoder.patch_embed.proj.bias"].fill_(float("nan"))
    save_load.save(folder, state)
    with pytest.raises(InputError, match="not finite in step 4"):
        tiny("mae:digits", folder)
    said = "\n".join(replayed(folder, capsys, monkeypatch))
    assert "step 4 of mae:digits: 0 steps from the checkpoint of step 4 to it" in said
    assert "weights      1 parameter not finite before the step: encoder.patch_embed.proj.bias" in said


@pytest.mark.usefixtures("in_this_process")
def test_a_step_that_is_finite_this_time_is_said_to_be(tiny, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    assert tiny("mae:digits", folder, "--run.stop-step=4") == 75
    (folder / "not_finite.json").write_text('{"step": 6, "ids": [1]}')
    *_, last = said = replayed(folder, capsys, monkeypatch)
    assert any("2 steps from the checkpoint of step 4 to it" in line for line in said)
    assert any("every loss and gradient is finite this time; gradient norm" in line for line in said)
    assert "one process" in last


def test_the_weights_that_are_reached_are_those_of_the_run(tiny, tmp_path):
    folder, copied, whole = (tmp_path / name for name in ("run", "copied", "whole"))
    assert tiny("semi_mae:digits", folder, "--run.stop-step=4") == 75
    (folder / "not_finite.json").write_text('{"step": 6, "ids": [1]}')
    replay.copy(folder, copied)
    step, recipe = replay.broken_step(folder, "cpu")
    recipe = replay.replace(recipe, run=replay.replace(recipe.run, folder=str(copied)))
    replay.reach(recipe, step)
    assert tiny("semi_mae:digits", whole, "--run.stop-step=6") == 75
    reached, expected = (save_load.load(each / "last.pt") for each in (copied, whole))
    assert reached["step"] == expected["step"] == 6
    if torch.get_num_threads() == 1:  # the copy is trained by a process with its own number of threads
        assert same(reached["method"], expected["method"])
    assert save_load.load(folder / "last.pt")["step"] == 4


def test_what_cannot_be_replayed_is_one_line(tiny, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert tiny("mae:digits", folder, "--run.stop-step=4") == 75
    for content, message in (
        (None, "has no not_finite.json: no step of it was not finite"),
        ('{"step": "x"}', "expected a step, a whole number, got 'x'"),
        ("{", "is not JSON"),
        ('{"step": 3}', "went on to step 4 after step 3 was not finite"),
    ):
        if content is not None:
            (folder / "not_finite.json").write_text(content)
        with pytest.raises(InputError, match=message):
            replay.broken_step(folder, None)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"expected the folder of a run"):
        replay.broken_step(folder, None)
