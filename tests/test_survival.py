"""Signals, kills, damage and full disks: a run that was stopped anyhow ends as one that never was."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.checkpoint import save_load
from tests.conftest import DECODER, TINY, rows, same, weights
from tests.processes import Started, start

KILLS = int(os.environ.get("SHOTCRETE_KILLS", 3))
SEED = int(os.environ.get("SHOTCRETE_KILL_SEED", 0))
STEPS, SAVE_STEPS = 40, 8
FLAGS = ["semi_mae:digits", *TINY, *DECODER, f"--optim.epochs={STEPS}", f"--run.save-steps={SAVE_STEPS}",
         "--method.pseudo.threshold=0.108", "--encoder.drop-path=0.3", "--run.evaluate-steps=20"]  # fmt: skip


@pytest.fixture(scope="module")
def argv(digits):
    """argv(folder): the command line of the run that all these tests stop in some way."""
    return lambda folder: [*FLAGS, f"--data.root={digits}", f"--run.folder={folder}"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, argv) -> Path:
    """A run that nothing stops."""
    folder = tmp_path_factory.mktemp("straight")
    assert start(argv(folder), folder / "log").end() == 0
    assert any(0 < row["pseudo"]["passed"] < 1 for row in rows(folder) if "pseudo" in row)
    return folder


def assert_ends_equal(folder: Path, argv, straight: Path) -> Started:
    """The same command again ends as `straight` did, to the bit; -> that start."""
    again = start(argv(folder), folder / "again")
    assert again.end() == 0, again.err
    assert same(weights(folder), weights(straight))
    assert rows(folder) == rows(straight)
    return again


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2", "SIGINT"])
def test_a_signal_ends_the_step_saves_and_exits_with_75(name, argv, tmp_path, straight):
    first = start(argv(tmp_path), tmp_path / "first", SLOW="12")
    first.wait_for("\n12/40")
    first.signal(getattr(signal, name))
    assert first.end() == 75
    assert first.err == ""
    stopped = save_load.load(tmp_path / "last.pt")["step"]
    assert 12 <= stopped < STEPS
    assert f"stopped after step {stopped} and saved" in first.out
    again = assert_ends_equal(tmp_path, argv, straight)
    assert again.steps == list(range(stopped, STEPS))  # nothing is done twice


def test_a_signal_before_the_first_step_is_heard(argv, tmp_path, straight):
    """As the shell starts it: the process says that it trains, and is told to stop, while data may still be opening."""
    command = [sys.executable, "train.py", *argv(tmp_path), "--run.fresh"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}) as run:
        assert b"steps on" in run.stdout.readline()
        run.send_signal(signal.SIGTERM)
        assert b"stopped after step" in run.stdout.read()
    assert run.returncode == 75
    assert_ends_equal(tmp_path, argv, straight)


def test_a_kill_at_any_moment_costs_no_more_than_two_save_intervals(argv, tmp_path, straight, capsys):
    """SIGKILL after a number of steps and a fraction of a second that a seed draws; the rest ends on the same bits."""
    moments, repeated, restarts = random.Random(SEED), [], []
    for kill in range(KILLS):
        folder = tmp_path / str(kill)
        first = start(argv(folder), folder / "first")
        first.wait_for_steps(moments.randint(0, STEPS))
        first.process.join(moments.uniform(0, 0.05))
        first.process.kill()
        assert first.end() == -signal.SIGKILL
        again = assert_ends_equal(folder, argv, straight)
        assert sorted({*first.steps, *again.steps}) == list(range(STEPS))
        repeated.append(len(first.steps) + len(again.steps) - STEPS)
        restarts.append(again.steps[0] if again.steps else STEPS)
    with capsys.disabled():
        print(
            f"\n{KILLS} kills, {KILLS}/{KILLS} equal; a checkpoint every {SAVE_STEPS} of {STEPS} steps; "
            f"steps repeated: {sum(repeated) / KILLS:.1f} on average, at most {max(repeated)}; "
            f"begun again at {sorted(restarts)}"
        )
    assert max(repeated) <= 2 * SAVE_STEPS  # a kill may meet a checkpoint that is still being written


@pytest.mark.parametrize("damage", ["flipped", "cut short", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, argv, tmp_path, straight):
    first = start([*argv(tmp_path), "--run.stop-step=20"], tmp_path / "first")
    assert first.end() == 75
    data = bytearray((tmp_path / "last.pt").read_bytes())
    data[len(data) // 2] ^= 16
    (tmp_path / "last.pt").write_bytes({"flipped": data, "cut short": data[:-1000], "empty": b""}[damage])
    again = assert_ends_equal(tmp_path, argv, straight)
    assert again.steps[0] == 16  # previous.pt
    assert again.err.startswith("warning: ")
    assert "going on from" in again.err
    assert len(again.err.splitlines()) == 1


def test_with_all_checkpoints_damaged_nothing_is_overwritten(argv, tmp_path):
    assert start([*argv(tmp_path), "--run.stop-step=20"], tmp_path / "first").end() == 75
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = start(argv(tmp_path), tmp_path / "again")
    assert again.end() == 2
    assert "holds no whole checkpoint" in again.err.splitlines()[-1]
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("full", ["for a checkpoint", "for a line of the journal"])
def test_a_full_disk_ends_in_one_line_and_the_checkpoint_before_loads(full, argv, tmp_path, straight):
    assert start([*argv(tmp_path), "--run.stop-step=10"], tmp_path / "first").end() == 75
    before = weights(tmp_path)
    sizes = {"for a checkpoint": (tmp_path / "last.pt").stat().st_size // 2,
             "for a line of the journal": (tmp_path / "metrics.jsonl").stat().st_size + 100}  # fmt: skip
    starved = start(argv(tmp_path), tmp_path / "starved", file_bytes=sizes[full])
    assert starved.end() == 2
    assert len(starved.err.splitlines()) == 1, starved.err
    assert starved.err.startswith("error: cannot ")
    assert "File too large" in starved.err
    assert same(weights(tmp_path), before)
    assert_ends_equal(tmp_path, argv, straight)


def test_checkpoints_hold_nothing_that_runs(straight):
    assert isinstance(torch.load(straight / "last.pt", weights_only=True)["method"], dict)
