"""--cluster local: the same commands on this machine, without Slurm."""

import json
import signal
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from slurm import job_events, local_controller, state
from slurm.request import Request
from tests.slurm.local_toys import TOY, names, toy, until


def test_two_tasks_of_a_snapshot(command, tmp_path):
    said = tmp_path / "said"
    command(*toy(tmp_path / "r", "--say", str(said), tasks=2, code="snapshot"))
    command("wait", str(tmp_path / "r"), "--poll", "0.1")
    assert sorted(said.read_text().splitlines()) == [f"first edition {rank} 2 {rank} 2 127.0.0.1" for rank in (0, 1)]
    assert names(tmp_path / "r") == ["submitted", "started", "done"] or names(tmp_path / "r")[0] == "started"
    assert list((tmp_path / ".code").iterdir())
    assert f"{tmp_path}/r  done " in command("status", str(tmp_path / "r"))


def test_a_crash_is_tried_again(command, tmp_path):
    command(*paused(toy(tmp_path / "r", "--code", "1"), "--tries", "2"))
    assert "failed" in command("wait", str(tmp_path / "r"), "--poll", "0.1", code=1)
    # as on Slurm: --tries starts after the first without a new checkpoint
    assert ends(tmp_path / "r") == ["crashed", "crashed", "failed"]
    assert names(tmp_path / "r").count("started") == 3


def paused(words: list[str], *flags: str) -> list[str]:
    """The same command with a short pause between two starts."""
    at = words.index("--")
    return [*words[:at], "--pause", "0.1", *flags, *words[at:]]


def ends(run: Path) -> list[str]:
    """The events that ended an attempt."""
    return [name for name in names(run) if name not in ("submitted", "started")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS])
def test_a_rank_that_a_signal_ends_is_started_again_and_named(number, command, tmp_path):
    """As after kill -9, out of memory or a segmentation fault; the second start ends well."""
    run, once = tmp_path / "r", str(tmp_path / "once")
    flags = ["--kill", "1", "--signal", str(int(number)), "--once", once]
    command(*paused(toy(run, *flags, tasks=2)))
    assert " done " in command("wait", str(run), "--poll", "0.1")
    assert ends(run) == ["crashed", "done"]
    (row,) = [row for row in job_events.read(run) if row["event"] == "crashed"]
    assert (row["rank"], row["code"]) == ("1", 128 + number)
    assert row["error"] == f"killed by signal {int(number)} ({number.name})"
    assert row["log"].endswith("_1_log.err")


def test_a_rank_that_is_always_killed_is_tried_as_often_as_asked(command, tmp_path):
    command(*paused(toy(tmp_path / "r", "--kill", "0"), "--tries", "1"))
    said = command("wait", str(tmp_path / "r"), "--poll", "0.1", code=1)
    assert ends(tmp_path / "r") == ["crashed", "failed"]
    assert "killed by signal 9 (SIGKILL)" in said


def test_bad_input_is_not_tried_again(command, tmp_path):
    command(*paused(toy(tmp_path / "r", "--code", "2")))
    command("wait", str(tmp_path / "r"), "--poll", "0.1", code=1)
    assert ends(tmp_path / "r") == ["failed"]


def test_the_other_ranks_end_with_a_killed_one(command, tmp_path):
    """One that waits for it would wait for ever; it is ended, and both are started again."""
    run, said = tmp_path / "r", tmp_path / "said"
    flags = ["--kill", "1", "--once", str(tmp_path / "once"), "--sleep", "100", "--say", str(said)]
    began = time.monotonic()
    command(*paused(toy(run, *flags, tasks=2)))
    until(lambda: len(said.read_text().splitlines()) == 4 if said.exists() else False)
    assert local_controller.PEERS_S <= time.monotonic() - began < 2 * local_controller.PEERS_S + 10
    command("cancel", str(run))
    assert "cancelled" in command("wait", str(run), "--poll", "0.1", code=1)
    assert ends(run)[0] == "crashed"


def test_cancel_between_two_starts_ends_the_job(command, tmp_path):
    run = tmp_path / "r"
    words = toy(run, "--kill", "0")
    command(*words[: words.index("--")], "--pause", "60", *words[words.index("--") :])
    until(lambda: "crashed" in names(run))
    assert command("cancel", str(run)) == f"{run}  saves and stops\n"
    assert "cancelled" in command("wait", str(run), "--poll", "0.1", code=1)
    assert names(run).count("started") == 1


@pytest.mark.parametrize(
    ("codes", "stopping", "expected"),
    [
        ([0, 0], False, 0),
        ([0, -9], False, 137),
        ([75, 75], False, 75),
        ([1, 75], False, 1),  # the rank that crashed, not those that saved and stopped then
        ([2, 75], False, 2),
        ([-15, 75], True, 75),  # before it listened
        ([-15, 0], False, 143),
        ([None, 0], False, 137),
    ],
)
def test_the_exit_code_of_an_attempt_is_that_of_the_tasks_that_failed(codes, stopping, expected):
    assert local_controller.exit_code(codes, stopping) == expected


def test_a_dry_run_shows_what_would_run_here_and_writes_nothing(command, tmp_path):
    said = command(*toy(tmp_path / "r", "--say", "a b", tasks=2)[:-3], "--dry-run", "--", "--say", "a b")
    assert "#SBATCH" not in said
    assert "1 at a time" in said
    assert "--tasks 2 " in said
    assert said.splitlines()[-1] == f"python -m {TOY} --say 'a b'"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("heard", [[], ["--deaf"]])  # by the module, or, as before train.py listens, for it
def test_cancel_ends_it(heard, command, tmp_path):
    command(*toy(tmp_path / "r", "--say", str(tmp_path / "said"), "--sleep", "200", *heard))
    assert "has job" in command(*toy(tmp_path / "r"), code=2)
    until((tmp_path / "said").exists)
    assert command("cancel", str(tmp_path / "r")) == f"{tmp_path}/r  saves and stops\n"
    assert f"{tmp_path}/r  cancelled" in command("wait", str(tmp_path / "r"), "--poll", "0.1", code=1)
    assert command("cancel", str(tmp_path / "r")) == f"{tmp_path}/r  is cancelled already\n"


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
    assert not state.active_job(tmp_path / "r")
