"""Determine the state of a run: from its own events, from squeue and sacct, and from its lock.

status(Path("runs/mae-digits")).state  # "running"
"""

import contextlib
import fcntl
import getpass
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from models.records.json_file import read_object
from models.records.jsonl import TEXT, wrong_field
from models.records.run_folder import LOCK, RECIPE
from pipeline.errors import InputError, Unavailable
from slurm import job_events

RECORD = "job.json"
CONTROLLER = "slurm.local_controller"
"""Module whose process is a job of this machine."""
QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"}


@final
@dataclass(frozen=True)
class QueueEntry:
    """A job in Slurm's queue or history; `reason` is why it waits."""

    state: str
    nodes: str = ""
    reason: str = ""


@final
@dataclass(frozen=True)
class Status:
    """State of a run, and the events that it is from.

    state  queued, running, done, failed, cancelled, stopped (locally, on request), gone (it neither ended nor runs), or
           not started (its folder was made, or its sweep ended before its turn)
    job    id of the job; "" for a run of plain train.py
    """

    run: Path
    job: str
    state: str
    entry: QueueEntry | None
    events: list[dict] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Say whether the run neither runs nor waits."""
        return self.state not in ("queued", "running")

    @property
    def restarts(self) -> int:
        """Count the starts after the first."""
        return max(0, sum(row["event"] == "started" for row in self.events) - 1)

    @property
    def error(self) -> dict | None:
        """Return the latest event of a crash or failure; None where there is none."""
        broken = [row for row in self.events if row["event"] in job_events.BROKEN]
        return broken[-1] if broken else None


def read_record(run: Path, *, absent: dict | None = None) -> dict:
    """Read what was submitted: target, request, job id, logs. Raises InputError if nothing was, unless `absent` is what
    to return then."""
    path = run / RECORD
    if not path.exists() and absent is None:
        why = "train.py was started there without a job" if (run / RECIPE).exists() else "give the run folder"
        raise InputError(f"{run} was not submitted from here (no {path}); {why}")
    return read_object(path, "restore it, or submit the run again", absent=absent)


def members(run: Path) -> list[Path]:
    """Return the runs of a sweep; for a run, itself. Raises InputError where there is neither."""
    without_job = (run / RECIPE).exists() and not (run / RECORD).exists()
    return [run] if without_job else [Path(member) for member in read_record(run).get("members", [run])]


def status(run: Path, queue: Mapping[str, QueueEntry | None] | None = None) -> Status:
    """Determine the state of a run.

    queue  the result of `query_slurm`, which is called here when absent
    """
    if not (run / RECORD).exists():
        return status_without_job(run)
    facts, every = read_record(run), job_events.read(run)
    if lacking := wrong_field(facts, {"job": TEXT, "cluster": TEXT, "root": TEXT}):
        raise InputError(f"{run / RECORD}: {lacking}; restore it, or submit the run again")
    job, rows = facts["job"], job_events.of_job(every, facts["job"])
    if facts["cluster"] == "local":
        queue = {job: local_entry(Path(facts["root"]), job)}
    entry = (query_slurm() if queue is None else queue).get(job)
    found = Status(run, job, state_of(rows, entry, facts["cluster"]), entry, rows)
    return status_without_job(run) if found.over and _started_without_job_since(every, job) else found


def status_without_job(run: Path) -> Status:
    """Determine the state of a run of plain train.py, from its lock and its ranks' events since the latest start."""
    rows = [row for row in job_events.read(run) if "rank" in row]
    begun = [index for index, row in enumerate(rows) if row["event"] in ("started", "resumed")]
    rows = rows[begun[-1] if begun else 0 :]
    last = rows[-1]["event"] if rows else "not started"
    known = last in ("done", "stopped", "failed", "not started")
    return Status(run, "", "running" if _locked(run) else last if known else "gone", None, rows)


def state_of(rows: list[dict], entry: QueueEntry | None, cluster: str = "slurm") -> str:
    """Determine the state of a job from its events, or, where the batch script recorded no end, from Slurm."""
    last = rows[-1]["event"] if rows else ""
    if cluster == "local" and entry is not None and entry.state in RUNNING:
        return "running"  # its first rank may be done before the others
    if last in job_events.OVER:
        return last
    if entry is not None:
        if entry.state in RUNNING:
            return "running"
        if entry.state in QUEUED:
            return "queued"
        ended = {"COMPLETED": "done", "CANCELLED": "cancelled"}
        return ended.get(entry.state.split()[0], "failed")
    if cluster == "local":
        cancelled = any(row["event"] == "cancelled" for row in rows)
        known = {"preempted": "stopped", "crashed": "failed", "queued": "not started"}
        return "cancelled" if cancelled else known.get(last, "gone")
    return "gone"


def statuses(runs: Sequence[Path]) -> list[Status]:
    """Determine the state of each run, with one query to Slurm for all if any was submitted to it."""
    slurm = any(read_record(run)["cluster"] == "slurm" for run in runs if (run / RECORD).exists())
    queue = query_slurm() if slurm else {}
    return [status(run, queue) for run in runs]


def active_job(run: Path) -> str | None:
    """Return the id of a run's job that waits or runs; None where there is none."""
    if not (run / RECORD).exists() or "members" in read_record(run):
        return None
    found = status(run)
    return None if found.over else found.job


def query_slurm() -> dict[str, QueueEntry]:
    """Return this user's jobs by id, array members as 12_3, from squeue, and from sacct where accounting is on.

    Raises Unavailable if squeue exists and fails: the jobs of a controller that restarts still run.
    """
    user, found = getpass.getuser(), {}
    history = ["sacct", "-X", "-n", "-P", "-u", user, "-S", "now-30days", "-o", "JobID,State,NodeList"]
    queue = ["squeue", "-h", "-r", "-t", "all", "-u", user, "-o", "%i|%T|%N|%r"]
    for command in (history, queue):
        for line in _lines(command, needed=command is queue):
            job, state, *more = line.split("|")
            found[job] = QueueEntry(state, *more)
    return found


def _lines(command: list[str], needed: bool = False) -> list[str]:
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
        code, out, error = shown.returncode, shown.stdout, shown.stderr
    except OSError:
        return []
    except subprocess.TimeoutExpired:
        code, out, error = 1, "", "nothing in 60 s"
    if code and needed:
        raise Unavailable(f"{command[0]} does not answer: {' '.join(error.split())}")
    return [line for line in out.splitlines() if "|" in line] if code == 0 else []


def _locked(run: Path) -> bool:
    """Say whether a process of this node, or of another one on the same file system, holds a folder's lock."""
    with contextlib.suppress(FileNotFoundError, PermissionError), open(run / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _started_without_job_since(rows: list[dict], job: str) -> bool:
    """Say whether ranks have started after the end of a job, so that the run goes on without it."""
    last = max((index for index, row in enumerate(rows) if row.get("job") == job), default=len(rows))
    since = [row for row in rows[last + 1 :] if "rank" in row and row["event"] in ("started", "resumed")]
    return bool(since) and rows[last]["event"] != "started"


def local_entry(root: Path, job: str) -> QueueEntry | None:
    """Look up a job of this machine: a process id, or for a member of a sweep that waits its place, such as 4711_2."""
    if "_" in job:
        return QueueEntry("PENDING") if _locked(root) else None
    return QueueEntry("RUNNING") if _controller(job) else None


def _controller(pid: str) -> bool:
    """Say whether a process is (still) the one that slurm.local started for a job."""
    with contextlib.suppress(OSError):
        return CONTROLLER.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
