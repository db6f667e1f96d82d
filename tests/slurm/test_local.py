"""--cluster local: the same commands on this machine, without Slurm."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slurm import events, launch, state

TOY = "tests.slurm.toy"


@pytest.fixture
def command(tmp_path):
    """command(*argv) is `python -m slurm.submit ARGV` where there is no Slurm; -> its output."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("git", "tar", "sh"):
        (programs / name).symlink_to(shutil.which(name))
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    own["PATH"] = str(programs)

    def call(*argv: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "slurm.submit", *argv], cwd=launch.ROOT, env=own, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return call


def toy(folder: Path, *then: str, tasks: int = 1, code: str = "live") -> list[str]:
    common = ["--cluster", "local", "--gpus", "0", "--tasks", str(tasks), "--folder", str(folder), "--code", code]
    return [TOY, *common, "--", *then]


def names(run: Path) -> list[str]:
    return [row["event"] for row in events.read(run)]


def test_two_tasks_of_a_snapshot(command, tmp_path):
    said = tmp_path / "said"
    command(*toy(tmp_path / "r", "--say", str(said), tasks=2, code="snapshot"))
    command("wait", str(tmp_path / "r"), "--poll", "0.1")
    assert sorted(said.read_text().splitlines()) == [f"first edition {rank} 2 {rank} 2 127.0.0.1" for rank in (0, 1)]
    assert names(tmp_path / "r") == ["submitted", "started", "done"] or names(tmp_path / "r")[0] == "started"
    assert list((tmp_path / ".code").iterdir())
    assert f"{tmp_path}/r  done " in command("status", str(tmp_path / "r"))


def test_a_crash_is_tried_again(command, tmp_path):
    command(*toy(tmp_path / "r", "--code", "1"))
    assert "failed" in command("wait", str(tmp_path / "r"), "--poll", "0.1", code=1)
    assert names(tmp_path / "r").count("crashed") > 1


def test_cancel_ends_it(command, tmp_path):
    command(*toy(tmp_path / "r", "--say", str(tmp_path / "said"), "--sleep", "60"))
    assert "has job" in command(*toy(tmp_path / "r"), code=2)
    until = time.monotonic() + 30
    while not (tmp_path / "said").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    command("cancel", str(tmp_path / "r"))
    assert "stopped" in command("wait", str(tmp_path / "r"), "--poll", "0.1", code=1)


def test_without_sbatch_one_line_says_what_to_do(command, tmp_path):
    said = command(TOY, "--folder", str(tmp_path / "r"), "--code", "live", code=2)
    assert said == "error: no sbatch here: submit on a login node of the cluster, or use --cluster local\n"
    assert not state.busy(tmp_path / "r")
