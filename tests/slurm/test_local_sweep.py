"""A sweep on this machine: its members run in turns, and `cancel` ends what it names and no more."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import InputError
from slurm import commands, job_events, launch, local, state
from slurm.job import Job
from slurm.request import Request
from tests.slurm.local_toys import TOY, begun, ended, names, sweep, until, words


def test_a_sweep_prints_the_starts_and_ends_of_its_members_and_its_table(tmp_path):
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


def test_cancel_of_a_sweep_ends_it_with_the_members_that_have_not_begun(command, tmp_path):
    said, root = tmp_path / "said", tmp_path / "sweep"
    going = begun(root, *[["--say", str(said), "--sleep", "200"]] * 3, gpus=0)
    until(said.exists)
    assert words(command("status", str(root)).splitlines()) == [("0", "running"), ("1", "queued"), ("2", "queued")]
    assert [line.split("  ")[1] for line in command("cancel", str(root)).splitlines()] == [
        "cancelled while it waited", "cancelled while it waited", "saves and stops"]  # fmt: skip
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
    """One that runs and one that waits; the third runs to its end."""
    said, root = tmp_path / "said", tmp_path / "sweep"
    going = begun(root, ["--say", str(said), "--sleep", "200"], ["--say", str(said)], ["--say", str(said)], gpus=0)
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
    going = begun(root, *[["--say", str(said), "--sleep", "200"]] * 2, gpus=0)
    until(said.exists)
    going.kill()
    going.communicate()
    found = command("status", str(root)).splitlines()
    assert words(found)[0] == ("0", "running")  # in the background
    assert found[1].split("  ")[1] == "not started"
    command("cancel", str(root))
    assert "cancelled" in command("wait", str(root / "0"), "--poll", "0.1", code=1)


def test_a_turn_that_comes_while_it_is_cancelled_is_cancelled_all_the_same(tmp_path, monkeypatch):
    """Either may be first: cancelling checks the state again, and so does starting."""
    ended = []
    monkeypatch.setattr(state, "_locked", lambda root: True)
    monkeypatch.setattr(state, "_controller", lambda pid: pid == "123")
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append(pid))
    facts = {"cluster": "local", "root": str(tmp_path), "logs": str(tmp_path)}
    launch._record(tmp_path / "0", facts, "7_0", "queued")
    seen = state.status(tmp_path / "0")
    launch._record(tmp_path / "0", facts, "123", "submitted", "")
    assert commands.cancel_local(seen)
    assert ended == [123]

    def start(jobs, request, logs, code, sweep):
        for job in jobs:
            (turn,) = [row["job"] for row in job_events.read(Path(job.run))]
            if job is jobs[0]:
                job_events.append(Path(job.run), "cancelled", turn)
            yield job, "123"

    monkeypatch.setattr(launch.local, "start", start)
    jobs = tuple(Job(TOY, [], str(tmp_path / name)) for name in "ab")
    plan = launch.Plan(TOY, (), tmp_path, jobs, tuple(job.run for job in jobs))
    ended.clear()
    launch.submit(plan, Request(cluster="local", code="live", gpus=0))
    assert ended == [123]
    assert [names(tmp_path / name) for name in "ab"] == [
        ["queued", "cancelled", "submitted", "cancelled"], ["queued", "submitted"]]  # fmt: skip


def test_a_sweep_has_one_process_that_starts_its_members(tmp_path):
    with (
        local.sweep_lock(tmp_path),
        pytest.raises(InputError, match="is being run by another process"),
        local.sweep_lock(tmp_path),
    ):
        pass
    with local.sweep_lock(tmp_path):
        pass


SLOW_TO_LISTEN = """
import signal, sys, time
time.sleep(1)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
"""


def begun_at_ctrl_c(log: Path, done: list[subprocess.Popen]) -> None:
    """Start a member, with Ctrl-C to it and to this process, as a terminal sends it, before it is there."""
    with local._in_background(log):
        member = subprocess.Popen([sys.executable, "-c", SLOW_TO_LISTEN])
        for pid in (os.getpid(), member.pid):
            os.kill(pid, signal.SIGINT)
        done.append(member)


def test_ctrl_c_while_a_member_is_being_started_ends_the_sweep_once_it_has_and_spares_the_member(tmp_path):
    """It used to be lost: nobody listened between the start of the controller's process and the end of `submit`."""
    hung_up, before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, as in CI, ignore Ctrl-C
    done: list[subprocess.Popen] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            begun_at_ctrl_c(tmp_path / "local.log", done)
        assert [member.wait(timeout=60) for member in done] == [0]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        with local._in_background(tmp_path / "local.log"):
            pass  # without Ctrl-C, nothing is raised
    finally:
        signal.signal(signal.SIGHUP, hung_up)
        signal.signal(signal.SIGINT, before)
