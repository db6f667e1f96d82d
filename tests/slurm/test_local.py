"""--cluster local: the same commands on this machine, without Slurm."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.errors import InputError
from slurm import events, launch, local, show, state
from slurm.job import Job
from slurm.request import Request

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


def begun(root: Path, *then: list[str], **flags: int) -> subprocess.Popen:
    """A local sweep of toys, on its way."""
    code = SWEEP.format(root=str(root), then=then, flags=flags)
    own = os.environ | {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], cwd=launch.ROOT, env=own, stdout=pipe, stderr=pipe, text=True)


def ended(going: subprocess.Popen) -> tuple[int, list[str]]:
    """Its exit code and the lines that it said."""
    out, err = going.communicate(timeout=50)  # of toys that sleep for a minute
    assert err == ""
    return going.returncode, out.splitlines()


def sweep(root: Path, *then: list[str], **flags: int) -> tuple[int, list[str]]:
    """A local sweep of toys; -> exit code and the lines that it says."""
    return ended(begun(root, *then, **flags))


def words(lines: list[str]) -> list[tuple[str, str]]:
    """Run and state, of the lines that begin with a run folder."""
    return [(Path(first).name, state) for first, state, *_ in map(str.split, lines) if first.startswith("/")]


def until(holds: Callable[[], bool], timeout_s: float = 40) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_sweep_says_who_starts_and_who_ends_and_shows_its_table(tmp_path):
    code, lines = sweep(tmp_path, ["--sleep", "0.5"], ["--code", "2"], ["--code", "0"], gpus=0)
    assert code == 1  # as `wait` would say
    assert lines[0].startswith("3 of 3 runs, 1 at a time (--parallel)")
    ends = [("0", "done"), ("1", "failed"), ("2", "done")]
    assert words(lines) == [each for number, end in enumerate(ends) for each in ((str(number), "started"), end)]
    assert [line.split(" on ")[0].split()[0] for line in lines if line.startswith(" ")] == ["failed"]  # and why
    shown = [line for line in lines if line.startswith("|")]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown]
    assert [row[:2] for row in table[2:]] == [["0", "done"], ["1", "failed"], ["2", "done"]]
    assert shown == lines[-5:] == (tmp_path / "table.md").read_text().splitlines()


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


@pytest.mark.parametrize("heard", [[], ["--deaf"]])  # by the module, or, as before train.py listens, for it
def test_cancel_ends_it(heard, command, tmp_path):
    command(*toy(tmp_path / "r", "--say", str(tmp_path / "said"), "--sleep", "60", *heard))
    assert "has job" in command(*toy(tmp_path / "r"), code=2)
    until((tmp_path / "said").exists)
    assert command("cancel", str(tmp_path / "r")) == f"{tmp_path}/r  is told to save and stop\n"
    assert f"{tmp_path}/r  cancelled" in command("wait", str(tmp_path / "r"), "--poll", "0.1", code=1)
    assert command("cancel", str(tmp_path / "r")) == f"{tmp_path}/r  is cancelled already\n"


def test_cancel_of_a_sweep_ends_it_with_the_members_that_have_not_begun(command, tmp_path):
    said, root = tmp_path / "said", tmp_path / "sweep"
    going = begun(root, *[["--say", str(said), "--sleep", "60"]] * 3, gpus=0)
    until(said.exists)
    assert words(command("status", str(root)).splitlines()) == [("0", "running"), ("1", "queued"), ("2", "queued")]
    assert [line.split("  ")[1] for line in command("cancel", str(root)).splitlines()] == [
        "cancelled while it waited", "cancelled while it waited", "is told to save and stop"]  # fmt: skip
    code, lines = ended(going)
    ends = [("0", "cancelled"), ("1", "cancelled"), ("2", "cancelled")]
    assert words(lines) == [("0", "started"), *ends]
    again = f"`python -m slurm.submit resubmit {root}` carries on"
    assert (code, lines[-1]) == (1, f"3 of 3 runs were cancelled; {again}")
    assert words(command("status", str(root)).splitlines()) == ends
    assert len(said.read_text().splitlines()) == 1
    assert sweep(root, *[["--say", str(said)]] * 3, gpus=0)[0] == 0
    assert len(said.read_text().splitlines()) == 4


def test_cancel_of_members_leaves_the_others_alone(command, tmp_path):
    """One that runs, one that waits; and who comes too late for its own sweep is told who has it."""
    said, root = tmp_path / "said", tmp_path / "sweep"
    going = begun(root, ["--say", str(said), "--sleep", "60"], ["--say", str(said)], ["--say", str(said)], gpus=0)
    until(said.exists)
    for number in ("1", "0"):
        command("cancel", str(root / number))
    code, lines = ended(going)
    assert code == 1
    assert words(lines) == [
        ("0", "started"), ("0", "cancelled"), ("1", "cancelled"), ("2", "started"), ("2", "done")]  # fmt: skip
    assert lines[-1].startswith("2 of 3 runs were cancelled; ")
    assert len(said.read_text().splitlines()) == 2


def test_members_whose_process_has_died_are_not_queued(command, tmp_path):
    said, root = tmp_path / "said", tmp_path / "sweep"
    going = begun(root, *[["--say", str(said), "--sleep", "60"]] * 2, gpus=0)
    until(said.exists)
    going.kill()
    going.communicate()
    found = command("status", str(root)).splitlines()
    assert words(found)[0] == ("0", "running")  # in the background
    assert found[1].split("  ")[1] == "not started"
    command("cancel", str(root))
    assert "cancelled" in command("wait", str(root / "0"), "--poll", "0.1", code=1)


def test_a_turn_that_comes_while_it_is_cancelled_is_cancelled_all_the_same(tmp_path, monkeypatch):
    """Either side may be first: who cancels looks again, and so does who starts."""
    ended = []
    monkeypatch.setattr(state, "_locked", lambda root: True)
    monkeypatch.setattr(state, "_controller", lambda pid: pid == "123")
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append(pid))
    facts = {"cluster": "local", "root": str(tmp_path), "logs": str(tmp_path)}
    launch._remember(tmp_path / "0", facts, "7_0", "queued")
    seen = state.status(tmp_path / "0")
    launch._remember(tmp_path / "0", facts, "123", "submitted", "")
    assert show.cancel_here(seen)
    assert ended == [123]

    def start(jobs, request, logs, code, sweep):
        for job in jobs:
            (turn,) = [row["job"] for row in events.read(Path(job.run))]
            if job is jobs[0]:
                events.note(Path(job.run), "cancelled", turn)
            yield job, "123"

    monkeypatch.setattr(launch.local, "start", start)
    jobs = tuple(Job(TOY, [], str(tmp_path / name)) for name in "ab")
    plan = launch.Plan(TOY, (), tmp_path, jobs, tuple(job.run for job in jobs))
    ended.clear()
    launch.submit(plan, Request(cluster="local", code="live", gpus=0))
    assert ended == [123]
    assert [names(tmp_path / name) for name in "ab"] == [
        ["queued", "cancelled", "submitted", "cancelled"], ["queued", "submitted"]]  # fmt: skip


def test_a_sweep_has_one_process_that_gives_turns(tmp_path):
    with (
        local.turns(tmp_path),
        pytest.raises(InputError, match="is being run by another process"),
        local.turns(tmp_path),
    ):
        pass
    with local.turns(tmp_path):
        pass


def test_resubmitting_here_leaves_out_what_is_slurms_and_keeps_it_for_slurm(command, tmp_path):
    run = tmp_path / "r"
    run.mkdir()
    request = asdict(Request(nodes=2, gpus=0, mem="500M", setup=("module load cuda",), folder=str(run), code="live"))
    facts = {"target": TOY, "overrides": [], "request": request, "logs": str(run / "slurm"), "root": str(run)}
    (run / state.RECORD).write_text(json.dumps(facts | {"cluster": "slurm", "job": "7"}))
    said = command("resubmit", str(run), "--cluster", "local").splitlines()
    assert said[0].startswith("without --nodes, --mem, --setup: Slurm's own")
    command("wait", str(run), "--poll", "0.1")
    again = command("resubmit", str(run), "--dry-run").splitlines()  # here once more
    assert again[0] == said[0]
    text = command("resubmit", str(run), "--dry-run", "--cluster", "slurm").splitlines()
    assert {"#SBATCH --mem=500M", "#SBATCH --nodes=2", "module load cuda"} <= set(text)
    refused = command("resubmit", str(run), "--dry-run", "--mem", "5G", code=2)
    assert "error: --mem is Slurm's" in refused  # asked for now


def test_without_sbatch_one_line_says_what_to_do(command, tmp_path):
    said = command(TOY, "--folder", str(tmp_path / "r"), "--code", "live", code=2)
    assert said == "error: no sbatch here: submit on a login node of the cluster, or use --cluster local\n"
    assert not state.busy(tmp_path / "r")
