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


SWEEP = """
from pathlib import Path
from slurm import submit
from slurm.job import Job
from slurm.launch import Plan
from slurm.request import Request

root = Path({root!r})
runs = [str(root / str(number)) for number in range(len({then!r}))]
jobs = [Job("tests.slurm.toy", argv, run) for argv, run in zip({then!r}, runs)]
plan = Plan("a:sweep", (), root, tuple(jobs), tuple(runs))
raise SystemExit(submit.told(plan, Request(cluster="local", code="live", **{flags!r})))
"""


def sweep(root: Path, *then: list[str], **flags: int) -> tuple[int, list[str]]:
    """A local sweep of toys; -> exit code and the lines that it says."""
    code = SWEEP.format(root=str(root), then=then, flags=flags)
    own = os.environ | {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    done = subprocess.run([sys.executable, "-c", code], cwd=launch.ROOT, env=own, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_a_sweep_says_who_starts_and_who_ends_and_shows_its_table(tmp_path):
    code, lines = sweep(tmp_path, ["--sleep", "0.5"], ["--code", "2"], ["--code", "0"], gpus=0)
    assert code == 1  # as `wait` would say
    assert lines[0].startswith("3 runs, 1 at a time (--parallel)")
    said = [(Path(words[0]).name, words[1]) for words in map(str.split, lines[1:7])]
    ends = [("0", "done"), ("1", "failed"), ("2", "done")]
    assert said == [each for number, end in enumerate(ends) for each in ((str(number), "started"), end)]
    waited = [line for line in lines[7:] if not line.startswith("|")]
    assert [(Path(line.split()[0]).name, line.split()[1]) for line in waited] == ends
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[10:]]
    assert [row[:2] for row in table[2:]] == [["0", "done"], ["1", "failed"], ["2", "done"]]
    assert lines[10:] == (tmp_path / "table.md").read_text().splitlines()


def test_members_at_the_same_time_have_gpus_of_their_own(tmp_path):
    said = tmp_path / "said"
    code, _ = sweep(tmp_path, *[["--say-gpus", str(said), "--sleep", "1"]] * 2, gpus=2, parallel=2)
    assert code == 0
    assert sorted(said.read_text().splitlines()) == ["4,5", "4,5", "6,7", "6,7"]


def test_a_dry_run_shows_what_would_run_here_and_writes_nothing(command, tmp_path):
    said = command(*toy(tmp_path / "r", "--say", "a b", tasks=2)[:-3], "--dry-run", "--", "--say", "a b")
    assert "#SBATCH" not in said
    assert "1 at a time" in said
    assert "--tasks 2 " in said
    assert said.splitlines()[-1] == f"python -m {TOY} --say 'a b'"
    assert not (tmp_path / "r").exists()


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
