import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.distributed.process_group import World
from models.training import stop as stopping
from models.training.stop import NO, SIGNAL, SIGNALS, TIME, Stop, Vote, duration_s, job_left_s
from tests.models.ranks import run_ranks


@pytest.fixture
def stop() -> Iterator[Stop]:
    made = Stop()
    yield made
    made.close()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_only_sets_the_flag(stop: Stop, number: signal.Signals) -> None:
    assert stop.why(0.0) == NO
    os.kill(os.getpid(), number)
    assert stop.why(0.0) == SIGNAL


def test_a_second_ctrl_c_interrupts_unless_it_is_torchruns_echo(stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    os.kill(os.getpid(), signal.SIGINT)
    clock[0] += 0.5
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.why(0.0) == SIGNAL
    clock[0] += 1
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_signal_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    Stop().close()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(
    ("left_s", "save_s", "at_s"),
    [(3600, 5, 3600 - 40), (3600, 0, 3600 - 30), (3600, 300, 3600 - 630), (50, 0, 25), (600, 3600, 300)],
)
def test_the_time_limit_leaves_time_for_two_saves(
    left_s: float, save_s: float, at_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    made = Stop(left_s)
    clock[0] = 1000.0 + at_s - 0.1
    assert made.why(save_s) == NO
    clock[0] = 1000.0 + at_s + 0.1
    assert made.why(save_s) == TIME
    made.close()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("3:04", 184.0), ("2:03:04", 7384.0), ("1-02:03:04", 93784.0), ("0:00", 0.0)]
    + [(word, None) for word in ("UNLIMITED", "NOT_SET", "INVALID", "")],
)
def test_slurms_durations_are_read(said: str, seconds: float | None) -> None:
    assert duration_s(said) == seconds


def test_only_a_slurm_job_has_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SLURM_JOB_END_TIME", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert job_left_s() is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert job_left_s() is None  # no squeue
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\n[ "$*" = "-h -j 7 -o %L" ] && echo 1:00:10\n')
    squeue.chmod(squeue.stat().st_mode | stat.S_IXUSR)
    assert job_left_s() == 3610
    monkeypatch.setattr(stopping.time, "time", lambda: 1_000_000.0)
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1000300")
    assert job_left_s() == 300


def test_one_process_hears_its_own_vote_at_once() -> None:
    vote = Vote(World(0, 1, 0, None))
    assert [vote(NO), vote(SIGNAL), vote.close()] == [NO, SIGNAL, NO]


VOTES = """
import json, time
import torch
import torch.distributed as dist
from models.config.recipe import Run
from models.distributed.process_group import finish, start, sum_over_ranks
from models.training.stop import Vote

world = start(Run(device="cpu"))
vote, results = Vote(world), []
for step in range(6):
    if world.rank == 1:
        time.sleep(0.02)  # a slow rank
    why = {(1, 3): 2, (0, 3): 1, (0, 5): 1}.get((world.rank, step), 0)
    results.append(vote(why))
    sum_over_ranks(torch.ones(1), world)  # other collectives of the same group come between
results.append(vote.close())
print(json.dumps([*results, vote.close()]))
finish(world)
"""


def test_all_ranks_read_the_same_votes_one_step_later() -> None:
    """A signal (2) on one rank outvotes the time limit (1) on another; the last vote is read before the ranks part."""
    assert [json.loads(output) for output in run_ranks(VOTES, 2)] == 2 * [[0, 0, 0, 0, 2, 0, 1, 0]]
