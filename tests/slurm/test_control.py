"""The launcher on a real Slurm with a toy in place of training: who is started, ended, named and left alone."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.errors import InputError
from slurm import job_events, launch, state, submit

pytestmark = pytest.mark.slurm
TOY = "tests.slurm.toy"


@pytest.fixture
def toy(cluster, tmp_path):
    """toy(name, *flags, then=[...]) submits a toy; -> its run folder."""

    def start(name: str, *flags: str, then: tuple[str, ...] = (), code: str = "live") -> Path:
        folder = tmp_path / name
        common = ["--folder", str(folder), "--gpus", "0", "--hours", "0.1", "--code", code, "--pause", "0.2"]
        assert submit.main([TOY, *common, "--mem", "100M", *flags, "--", *then]) == 0
        return folder

    return start


def names(run: Path) -> list[str]:
    return [row["event"] for row in job_events.of_job(job_events.read(run), state.read_record(run)["job"])]


def until(holds, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, subprocess.run(["squeue"], capture_output=True, text=True).stdout
        time.sleep(0.1)


def finished(*runs: Path) -> int:
    """Wait for runs as a user would; -> exit code of `wait`."""
    return submit.main(["wait", *map(str, runs), "--poll", "0.2"])


def test_rank_world_and_address_come_from_slurm_and_gpus_are_one_a_task(toy, tmp_path):
    said = tmp_path / "said"
    run = toy("r", "--nodes", "2", "--gpus", "2", then=("--say", str(said)))
    assert finished(run) == 0
    assert sorted(said.read_text().splitlines()) == [f"first edition {r} 4 {r % 2} 2 n1" for r in range(4)]
    assert names(run) == ["submitted", "started", "done"]


def test_a_node_without_a_name_is_reached_by_its_address(toy, tmp_path, cluster):
    """As on clusters whose nodes no DNS knows: NodeAddr, at once."""
    said, hosts = tmp_path / "said", cluster / "hosts"
    known = hosts.read_text()
    hosts.write_text("".join(line for line in known.splitlines(True) if "127.0.77." not in line))
    try:
        run = toy("r", "--nodes", "2", then=("--say", str(said)))
        assert finished(run) == 0
    finally:
        hosts.write_text(known)
    assert sorted(said.read_text().splitlines()) == [f"first edition {r} 2 0 1 127.0.77.1" for r in range(2)]


def test_edits_while_the_job_waits_change_nothing(toy, tmp_path, monkeypatch):
    """A copy of the tree, with a change that is not committed; then edited while the job is in the queue."""
    tree, said = tmp_path / "tree", tmp_path / "said"
    subprocess.run(["git", "clone", "-q", launch.ROOT, tree], check=True)
    for part in ("slurm", "tests/slurm"):
        shutil.copytree(launch.ROOT / part, tree / part, dirs_exist_ok=True)
    source = tree / "tests" / "slurm" / "toy.py"
    text = source.read_text()
    source.write_text(text.replace("first edition", "second edition"))
    monkeypatch.setattr(launch, "ROOT", tree)
    run = toy("r", "--sbatch", "begin=now+3", then=("--say", str(said)), code="snapshot")
    source.write_text(text.replace("first edition", "third edition"))
    assert finished(run) == 0
    assert said.read_text().startswith("second edition")
    again = toy("s", then=("--say", str(said)), code="snapshot")
    assert finished(again) == 0
    assert said.read_text().splitlines()[1].startswith("third edition")
    code = [Path(state.read_record(each)["code"]) for each in (run, again)]
    assert code[0] != code[1]
    assert code[0].parent == code[1].parent
    assert json.loads((code[0] / "snapshot.json").read_text())["commit"].endswith(f"+{code[0].name}")


def test_the_failing_ranks_own_exception_comes_first(toy, capsys):
    run = toy("r", "--nodes", "2", "--tries", "0", then=("--raise-on", "1"))
    began = time.monotonic()
    assert finished(run) == 1
    assert time.monotonic() - began < 50  # the other rank sleeps for a minute
    row = job_events.read(run)[-1]
    assert (row["event"], row["node"], row["rank"]) == ("failed", "n2", "1")
    assert row["error"] == "ValueError: rank 1 divides by its own doubt"
    assert Path(row["log"]).read_text().splitlines()[row["line"] - 1].startswith("Traceback")
    capsys.readouterr()
    assert submit.main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert f"on n2, rank 1: {row['error']}  {row['log']}:{row['line']}" in said


def test_a_crash_is_tried_again_in_place_until_tries_are_used_up(toy, tmp_path):
    run = toy("r", "--tries", "2", "--notify", f"echo $EVENT $RUN > {tmp_path}/told", then=("--code", "5"))
    assert finished(run) == 1
    assert names(run) == ["submitted", *["started", "crashed"] * 2, "started", "failed"]
    told = tmp_path / "told"
    until(lambda: told.exists() and told.read_text() == f"failed {run}\n")  # said once the run is known to be over


def test_a_killed_rank_is_named(toy):
    run = toy("r", "--nodes", "2", "--tries", "0", then=("--kill", "1", "--sleep", "60"))
    assert finished(run) == 1
    row = job_events.read(run)[-1]
    assert (row["node"], row["rank"], row["error"]) == ("n2", "1", "Killed")


def test_bad_input_is_not_tried_again(toy):
    run = toy("r", then=("--code", "2"))
    assert finished(run) == 1
    assert names(run) == ["submitted", "started", "failed"]


def test_a_cancelled_job_stays_cancelled_and_its_run_can_be_submitted_again(toy, tmp_path):
    said = tmp_path / "said"
    run = toy("r", then=("--say", str(said), "--sleep", "60"))
    until(said.exists)
    with pytest.raises(InputError, match=f"{run} has job"):
        toy("r", then=("--sleep", "60"))
    job = state.read_record(run)["job"]
    assert submit.main(["cancel", str(run)]) == 0
    assert finished(run) == 1
    assert state.status(run).state == "cancelled"
    until(lambda: state.query_slurm()[job].state == "CANCELLED")
    time.sleep(4)
    assert state.query_slurm()[job].state == "CANCELLED"
    assert toy("r", then=("--sleep", "0")) == run
    assert finished(run) == 0


def test_a_job_that_is_cancelled_while_it_waits_is_remembered_when_slurm_has_forgotten_it(toy, capsys, monkeypatch):
    run = toy("r", "--sbatch", "begin=now+3600")
    capsys.readouterr()
    assert submit.main(["cancel", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}  cancelled while it waited\n"
    until(lambda: state.query_slurm()[state.read_record(run)["job"]].state == "CANCELLED")
    monkeypatch.setattr(state, "query_slurm", dict)
    assert state.status(run).state == "cancelled"


def test_a_chain_runs_in_order_and_ends_with_its_first_failure(toy, tmp_path):
    said = tmp_path / "said"
    first = toy("first", "--sbatch", "begin=now+3600", then=("--say", str(said)))
    second = toy("second", "--after", str(first), then=("--code", "2"))
    third = toy("third", "--after", str(second), then=("--say", str(said)))
    subprocess.run(["scontrol", "update", f"JobId={state.read_record(first)['job']}", "StartTime=now"], check=True)
    assert finished(first) == 0
    assert finished(first, second, third) == 1
    assert [state.status(run).state for run in (first, second, third)] == ["done", "failed", "cancelled"]
    assert len(said.read_text().splitlines()) == 1
    with pytest.raises(InputError, match="second is failed; resubmit it first"):
        toy("fourth", "--after", str(second))
    fifth = toy("fifth", "--after", str(first))  # over already: nothing to wait for
    assert finished(fifth) == 0


def test_resubmit_repeats_what_was_asked_and_takes_changes(toy, capfd):
    run = toy("r", "--nodes", "2", then=("--code", "2"))
    assert finished(run) == 1
    assert submit.main(["resubmit", str(run), "--nodes", "1", "--", "--code", "0"]) == 0
    assert finished(run) == 0
    assert state.read_record(run)["request"]["nodes"] == 1
    assert state.read_record(run)["request"]["mem"] == "100M"
    capfd.readouterr()
    assert submit.main(["logs", str(run)]) == 0
    assert "Starting with JobEnvironment" in capfd.readouterr().out


def test_what_sbatch_refuses_is_said_in_one_line(toy):
    with pytest.raises(InputError, match="invalid partition specified: nowhere"):
        toy("r", "--partition", "nowhere")
