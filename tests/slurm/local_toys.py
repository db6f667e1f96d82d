"""Toys and sweeps of toys on this machine, without Slurm, and what can be asked of them meanwhile."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from slurm import job_events, launch

TOY = "tests.slurm.toy"


def toy(folder: Path, *then: str, tasks: int = 1, code: str = "live") -> list[str]:
    common = ["--cluster", "local", "--gpus", "0", "--tasks", str(tasks), "--folder", str(folder), "--code", code]
    return [TOY, *common, "--", *then]


def names(run: Path) -> list[str]:
    return [row["event"] for row in job_events.read(run)]


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
raise SystemExit(submit.submit_plan(plan, Request(cluster="local", code="live", **{flags!r})))
"""


def begun(root: Path, *then: list[str], **flags: int) -> subprocess.Popen:
    """A local sweep of toys, on its way."""
    code = SWEEP.format(root=str(root), then=then, flags=flags)
    own = os.environ | {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], cwd=launch.ROOT, env=own, stdout=pipe, stderr=pipe, text=True)


def ended(going: subprocess.Popen) -> tuple[int, list[str]]:
    """Its exit code and the lines that it said."""
    out, err = going.communicate(timeout=150)  # of toys that sleep for longer
    assert err == ""
    return going.returncode, out.splitlines()


def sweep(root: Path, *then: list[str], **flags: int) -> tuple[int, list[str]]:
    """A local sweep of toys; -> exit code and the lines that it says."""
    return ended(begun(root, *then, **flags))


def words(lines: list[str]) -> list[tuple[str, str]]:
    """Run and state, of the lines that begin with a run folder."""
    return [(Path(first).name, state) for first, state, *_ in map(str.split, lines) if first.startswith("/")]


def until(holds: Callable[[], bool], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
