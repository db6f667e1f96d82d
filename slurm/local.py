"""Run jobs on this machine, without Slurm; slurm.local_controller starts their tasks, and again after a crash."""

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import final

import submitit
from submitit.local.local import LocalJob

from models.records.run_folder import LOCK
from pipeline.errors import InputError
from slurm import chain_jobs
from slurm.commands import print_state, short
from slurm.job import Job
from slurm.request import Request
from slurm.snapshot import Snapshot
from slurm.state import CONTROLLER, status

POLL_S = 0.2


@final
class Executor(submitit.LocalExecutor):
    """submitit's executor for this machine, but for the process that starts the tasks: slurm.local_controller."""

    def __init__(self, logs: Path, request: Request) -> None:
        """Keep each job's logs, and the pickles of submitit, in the folder `logs`."""
        super().__init__(folder=logs)
        self.request = request
        self.job_run = Path()
        """Run folder of the job that is submitted next."""

    def _submit_command(self, command: str) -> LocalJob:
        gpus = self.parameters["visible_gpus"][: self.request.gpus]
        own = {
            "SUBMITIT_LOCAL_NTASKS": str(self.request.tasks_per_node),
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(int(self.request.hours * 3600)),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(self.request.signal_delay),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "SUBMITIT_STDERR_TO_STDOUT": "",
            "SUBMITIT_EXECUTOR": "local",
            "SLURM_RESTART_COUNT": "0",  # where this is a job of Slurm itself, its own is another
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
        }
        given = [str(self.folder), str(self.job_run), str(self.request.tries), str(self.request.pause)]
        process = subprocess.Popen([sys.executable, "-m", CONTROLLER, *given], env=os.environ | own)
        return LocalJob(self.folder, str(process.pid), [*range(self.request.tasks_per_node)], process)


def start(jobs: Sequence[Job], request: Request, logs: Path, code: Snapshot, sweep: bool) -> Iterator[tuple[Job, str]]:
    """Start the jobs in the background, at most `parallel` (1 when absent) at a time; yield each and its process id.

    The members of a sweep that were cancelled while they waited are left out, and so is what follows a run that is not
    done once it is over. For a sweep the state of each is printed when it ends, and the iteration ends when all have.
    """
    own = {"PYTHONPATH": f"{code.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "PYTHONSAFEPATH": "1"}
    os.environ.update(own | {"SHOTCRETE_COMMIT": code.commit})
    executor, waiting = Executor(logs, request), list(jobs)
    running: dict[int, tuple[Path, submitit.Job]] = {}
    wide, gpus = request.parallel or 1, _gpus(request.gpus)
    while waiting:
        ahead = {job.run for job in waiting} | {str(run) for run, _ in running.values()}
        job = next((job for job in waiting if job.after not in ahead), None)
        if job is None or len(running) >= wide:
            running = _still_running(running)
            continue
        waiting.remove(job)
        if sweep and _left_out(job):
            continue
        place = min({*range(wide)} - {*running})
        executor.request = chain_jobs.alone(request) if job.module == chain_jobs.ALONE and job.stage else request
        each = executor.request.gpus
        executor.update_parameters(
            tasks_per_node=executor.request.tasks_per_node,
            gpus_per_node=each,
            visible_gpus=[gpus[(place * request.gpus + number) % len(gpus)] for number in range(each)],
            timeout_min=request.hours * 60,
            signal_delay_s=request.signal_delay,
        )
        Path(job.run).mkdir(parents=True, exist_ok=True)
        with _in_background(logs / "local.log"):
            executor.job_run = Path(job.run)
            running[place] = executor.job_run, executor.submit(job)
        yield job, running[place][1].job_id
    while running and sweep:
        running = _still_running(running)


def _left_out(job: Job) -> bool:
    """Say whether a job whose turn it is does not start, and print why: it was cancelled, or it follows a run that is
    not done."""
    if status(Path(job.run)).state == "cancelled":
        print_state(Path(job.run))
        return True
    before = None if job.after is None else status(Path(job.after))
    if before is None or before.state == "done":
        return False
    print_state(Path(job.run), f"not started, as it follows {short(before.run)}: {before.state}")
    return True


@contextlib.contextmanager
def sweep_lock(root: Path) -> Generator[None]:
    """Hold the lock of a sweep's folder, so that this process alone starts its members, which are queued meanwhile.

    Raises InputError if another process holds it.
    """
    with open(root / LOCK, "w") as held:
        until = time.monotonic() + 1
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # `status`, too, holds it for a moment
                if time.monotonic() > until:
                    raise InputError(f"{root} is being run by another process; cancel it first, or wait") from None
                time.sleep(0.02)
        yield


def text(jobs: Sequence[Job], request: Request, logs: Path, code: Snapshot) -> str:
    """Describe what `start` would do: how many jobs at a time, and each command."""
    each = f"--tasks {request.tasks_per_node} --gpus {request.gpus} --hours {request.hours:g}"
    head = f"on this machine, {request.parallel or 1} at a time, each with {each}; code: {code.folder}, logs: {logs}"
    programs = [["train.py"] if job.module == "train" else ["-m", job.module.removesuffix(".__main__")] for job in jobs]
    return "\n".join([head, *(shlex.join(["python", *p, *job.argv]) for p, job in zip(programs, jobs, strict=True))])


def _still_running(running: dict[int, tuple[Path, submitit.Job]]) -> dict[int, tuple[Path, submitit.Job]]:
    """Return those that still run after POLL_S; print the state of the others."""
    time.sleep(POLL_S)
    ended = [place for place, (_, job) in running.items() if job.get_info()["jobState"] != "RUNNING"]
    for place in ended:
        print_state(running[place][0])
    return {place: each for place, each in running.items() if place not in ended}


def _gpus(each: int) -> Sequence[int]:
    """Return the GPUs that jobs take in turn: those in CUDA_VISIBLE_DEVICES, else all; at least what each asks for."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    found = [int(name) for name in named if name.isdigit()] or range(len([*Path("/dev").glob("nvidia[0-9]*")]))
    return found if len(found) >= each else range(each)


@contextlib.contextmanager
def _in_background(log: Path) -> Generator[None]:
    """Let processes that start inside survive the end of the terminal, with their output in `log` instead of a pipe.

    Ctrl-C reaches all of them: train.py handles it and saves; the controller ignores it, or it would kill train.py, and
    begins with the signal blocked, until it does. Ctrl-C to this process counts once the inside has ended.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    pressed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
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
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            signal.signal(signal.SIGINT, handler)
            if pressed:
                signal.raise_signal(signal.SIGINT)
