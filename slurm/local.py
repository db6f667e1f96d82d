"""The same jobs on this machine, without Slurm: submitit starts one process per GPU, and again after a crash."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import submitit

from pipeline.errors import InputError
from slurm.job import Job
from slurm.request import Request
from slurm.snapshot import Snapshot

POLL_S = 0.2


def start(jobs: Sequence[Job], request: Request, logs: Path, code: Snapshot) -> Iterator[str]:
    """Start the jobs in the background, at most `parallel` (1 when absent) at a time; yields their ids: process ids."""
    if request.notify or request.setup:
        raise InputError("--cluster local knows no --setup and no --notify; run them yourself, before and after")
    own = {"PYTHONPATH": f"{code.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "PYTHONSAFEPATH": "1"}
    os.environ.update(own | {"SHOTCRETE_COMMIT": code.commit})
    executor = submitit.LocalExecutor(folder=logs)
    executor.update_parameters(
        tasks_per_node=request.tasks_per_node,
        gpus_per_node=request.gpus,
        timeout_min=request.hours * 60,
        signal_delay_s=request.signal_delay,
    )
    started: list[submitit.Job] = []
    for job in jobs:
        while sum(not each.done() for each in started) >= (request.parallel or 1):
            time.sleep(POLL_S)
        Path(job.run).mkdir(parents=True, exist_ok=True)
        with _in_background(logs / "local.log"):
            started.append(executor.submit(job))
        yield started[-1].job_id


@contextlib.contextmanager
def _in_background(log: Path) -> Iterator[None]:
    """What starts inside survives the end of the terminal, and holds no pipe of this process open."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.stdout.flush()
    with open(log, "ab") as file:
        before = {number: os.dup(number) for number in (1, 2)}
        for number in before:
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            for number, held in before.items():
                os.dup2(held, number)
                os.close(held)
