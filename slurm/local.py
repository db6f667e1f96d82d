"""The same jobs on this machine, without Slurm: submitit starts one process per GPU, and again after a crash."""

import contextlib
import fcntl
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import submitit

from pipeline.errors import InputError
from slurm import show
from slurm.job import Job
from slurm.request import Request
from slurm.snapshot import Snapshot
from slurm.state import LOCK, status

POLL_S = 0.2


def start(jobs: Sequence[Job], request: Request, logs: Path, code: Snapshot, sweep: bool) -> Iterator[tuple[Job, str]]:
    """Start the jobs in the background, at most `parallel` (1 when absent) at a time; yields each and its process id.

    Of a sweep, leaves out whose turn was cancelled, says how each ends, and returns when all have.
    """
    own = {"PYTHONPATH": f"{code.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "PYTHONSAFEPATH": "1"}
    os.environ.update(own | {"SHOTCRETE_COMMIT": code.commit})
    executor = submitit.LocalExecutor(folder=logs)
    running: dict[int, tuple[Path, submitit.Job]] = {}
    wide, there = request.parallel or 1, _gpus(request.gpus)
    for job in jobs:
        while len(running) >= wide:
            running = _left(running)
        if sweep and status(Path(job.run)).state == "cancelled":
            show.say(Path(job.run))
            continue
        place = min({*range(wide)} - {*running})
        executor.update_parameters(
            tasks_per_node=request.tasks_per_node,
            gpus_per_node=request.gpus,
            visible_gpus=[there[(place * request.gpus + each) % len(there)] for each in range(request.gpus)],
            timeout_min=request.hours * 60,
            signal_delay_s=request.signal_delay,
        )
        Path(job.run).mkdir(parents=True, exist_ok=True)
        with _in_background(logs / "local.log"):
            running[place] = Path(job.run), executor.submit(job)
        yield job, running[place][1].job_id
    while running and sweep:
        running = _left(running)


@contextlib.contextmanager
def turns(root: Path) -> Iterator[None]:
    """Inside, this process is the one that gives the members of a sweep their turns: they are queued while it lives.

    Raises InputError if another process is.
    """
    with open(root / LOCK, "w") as held:
        until = time.monotonic() + 1
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # for a moment also where `status` looks
                if time.monotonic() > until:
                    raise InputError(f"{root} is being run by another process; cancel it first, or wait") from None
                time.sleep(0.02)
        yield


def text(jobs: Sequence[Job], request: Request, logs: Path, code: Snapshot) -> str:
    """What `start` would do: how much at a time, and each command."""
    each = f"--tasks {request.tasks_per_node} --gpus {request.gpus} --hours {request.hours:g}"
    head = f"on this machine, {request.parallel or 1} at a time, each with {each}; code: {code.folder}, logs: {logs}"
    programs = [["train.py"] if job.module == "train" else ["-m", job.module.removesuffix(".__main__")] for job in jobs]
    return "\n".join([head, *(shlex.join(["python", *p, *job.argv]) for p, job in zip(programs, jobs, strict=True))])


def _left(running: dict[int, tuple[Path, submitit.Job]]) -> dict[int, tuple[Path, submitit.Job]]:
    """Those that still run, a moment later; of the others it is said how they ended."""
    time.sleep(POLL_S)
    ended = [place for place, (_, job) in running.items() if job.done()]
    for place in ended:
        show.say(running[place][0])
    return {place: each for place, each in running.items() if place not in ended}


def _gpus(each: int) -> Sequence[int]:
    """The GPUs that jobs take in turn: those named in CUDA_VISIBLE_DEVICES, else all; at least what each asks for."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    found = [int(name) for name in named if name.isdigit()] or range(len([*Path("/dev").glob("nvidia[0-9]*")]))
    return found if len(found) >= each else range(each)


@contextlib.contextmanager
def _in_background(log: Path) -> Iterator[None]:
    """What starts inside survives the end of the terminal, and holds no pipe of this process open.

    Of Ctrl-C, which reaches all, train.py hears and saves; submitit's controller must not, or it would kill it.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
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
            signal.signal(signal.SIGINT, heard)
