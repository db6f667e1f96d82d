"""What became of a run: from its own events, from squeue and sacct, or from what is left when neither knows."""

import contextlib
import fcntl
import getpass
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import InputError, Unavailable
from slurm import events
from slurm.results import RECIPE

RECORD, LOCK = "job.json", "lock"
QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"}


@dataclass(frozen=True)
class Live:
    """A job as Slurm sees it; `reason` says why it waits."""

    state: str
    nodes: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Status:
    """state: queued, running, done, failed, cancelled, stopped (locally, on request), or gone: nobody knows of it.

    job is "" for a run of plain train.py. "not started": its folder was made, or its sweep ended before its turn.
    """

    run: Path
    job: str
    state: str
    live: Live | None
    events: list[dict] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.state not in ("queued", "running")

    @property
    def restarts(self) -> int:
        return max(0, sum(row["event"] == "started" for row in self.events) - 1)

    @property
    def error(self) -> dict | None:
        """The latest event with something to say about what broke."""
        broken = [row for row in self.events if row["event"] in events.BROKEN]
        return broken[-1] if broken else None


def record(run: Path) -> dict:
    """What was submitted. Raises InputError if nothing was."""
    path = run / RECORD
    try:
        return json.loads(path.read_text())
    except OSError as error:
        why = "train.py was started there without a job" if (run / RECIPE).exists() else "give the run folder"
        raise InputError(f"{run} was not submitted from here (no {path}); {why}") from error


def members(run: Path) -> list[Path]:
    """The runs of a sweep; a run is its own. Raises InputError where there is none."""
    by_hand = (run / RECIPE).exists() and not (run / RECORD).exists()
    return [run] if by_hand else [Path(member) for member in record(run).get("members", [run])]


def status(run: Path, live: dict[str, Live] | None = None) -> Status:
    """The state of a run; `live` is what `ask` said, asked here when absent."""
    if not (run / RECORD).exists():
        return by_hand(run)
    facts, every = record(run), events.read(run)
    job, rows = facts["job"], events.of_job(every, facts["job"])
    if facts["cluster"] == "local":
        live = {job: here(Path(facts["root"]), job)}
    seen = (ask() if live is None else live).get(job)
    found = Status(run, job, judge(rows, seen, facts["cluster"]), seen, rows)
    return by_hand(run) if found.over and _by_hand_since(every, job) else found


def by_hand(run: Path) -> Status:
    """The state of a run without a job, from its lock and from what its ranks noted since the latest start."""
    rows = [row for row in events.read(run) if "rank" in row]
    begun = [index for index, row in enumerate(rows) if row["event"] in ("started", "resumed")]
    rows = rows[begun[-1] if begun else 0 :]
    last = rows[-1]["event"] if rows else "not started"
    known = last in ("done", "stopped", "failed", "not started")
    return Status(run, "", "running" if _locked(run) else last if known else "gone", None, rows)


def judge(rows: list[dict], seen: Live | None, cluster: str = "slurm") -> str:
    """A run's state in one word. The batch script's last word counts; Slurm's, where it did not come to one."""
    last = rows[-1]["event"] if rows else ""
    if cluster == "local" and seen is not None and seen.state in RUNNING:
        return "running"  # its first rank may be done before the others
    if last in events.OVER:
        return last
    if seen is not None:
        if seen.state in RUNNING:
            return "running"
        if seen.state in QUEUED:
            return "queued"
        ended = {"COMPLETED": "done", "CANCELLED": "cancelled"}
        return ended.get(seen.state.split()[0], "failed")
    if cluster == "local":
        asked = any(row["event"] == "cancelled" for row in rows)
        known = {"preempted": "stopped", "crashed": "failed", "queued": "not started"}
        return "cancelled" if asked else known.get(last, "gone")
    return "gone"


def statuses(runs: Sequence[Path]) -> list[Status]:
    """The state of each run; Slurm is asked once for all, if one was submitted to it."""
    slurm = any(record(run)["cluster"] == "slurm" for run in runs if (run / RECORD).exists())
    live = ask() if slurm else {}
    return [status(run, live) for run in runs]


def busy(run: Path) -> str | None:
    """The id of the job that a run has in the queue or on nodes."""
    if not (run / RECORD).exists() or "members" in record(run):
        return None
    found = status(run)
    return None if found.over else found.job


def ask() -> dict[str, Live]:
    """This user's jobs by id, array members as 12_3: squeue over sacct, which works only where accounting is on.

    Raises Unavailable if squeue is there and fails: a controller that restarts has not lost its jobs.
    """
    user, found = getpass.getuser(), {}
    history = ["sacct", "-X", "-n", "-P", "-u", user, "-S", "now-30days", "-o", "JobID,State,NodeList"]
    queue = ["squeue", "-h", "-r", "-t", "all", "-u", user, "-o", "%i|%T|%N|%r"]
    for command in (history, queue):
        for line in _lines(command, needed=command is queue):
            job, state, *more = line.split("|")
            found[job] = Live(state, *more)
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
    """Whether a process holds the run folder (models.records.run_folder), here or where the file system knows of it."""
    with contextlib.suppress(FileNotFoundError, PermissionError), open(run / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _by_hand_since(rows: list[dict], job: str) -> bool:
    """Whether ranks have started since the last word of a job, which says before them that it starts."""
    last = max((index for index, row in enumerate(rows) if row.get("job") == job), default=len(rows))
    since = [row for row in rows[last + 1 :] if "rank" in row and row["event"] in ("started", "resumed")]
    return bool(since) and rows[last]["event"] != "started"


def here(root: Path, job: str) -> Live | None:
    """A job of this machine: a process id, or such as 4711_2, the turn that a sweep's process will give it."""
    if "_" in job:
        return Live("PENDING") if _locked(root) else None
    return Live("RUNNING") if _controller(job) else None


def _controller(pid: str) -> bool:
    """Whether a process is (still) the one that submitit started for a local job."""
    with contextlib.suppress(OSError):
        return b"submitit.local" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
