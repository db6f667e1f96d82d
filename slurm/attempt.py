"""Record the begin and the end of one attempt (one srun) of a job, and decide what its batch script does next.

    python -m slurm.attempt begin              before srun
    python -m slurm.attempt end CODE           after it; prints "again SECONDS", "requeue" or "end EVENT"

Reads RUN, LOGS, ATTEMPT and Slurm's own variables. It runs on the batch host between two starts of a job, and imports
the standard library only, so that it starts without waiting for torch or numpy.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

from models.records.exit_codes import BAD_INPUT, DONE, STOPPED
from models.records.json_file import read_object
from models.records.jsonl import NUMBER, TEXT, wrong_field
from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole
from slurm import first_failure, job_events

CHECKPOINT = "last.pt"
LONGEST_PAUSE_S = 60
NOTES = {"began": NUMBER, "stderr_bytes": (int,), "checkpoint": TEXT, "stalled": (int,)}
CLOCK_SKEW_S = 5
"""Largest difference between the clocks of nodes that is expected."""


@final
@dataclass(frozen=True)
class JobState:
    """State of this job by Slurm; state and reason are "" if Slurm does not answer.

    restarts  also counts a restart that Slurm has scheduled already
    """

    state: str = ""
    reason: str = ""
    restarts: int = 0


@final
@dataclass(frozen=True)
class Attempt:
    """One start of the tasks of a job: its run folder and log folder, and the nodes.

    restart, number  how often Slurm has put the job back, and the attempts before in the same allocation
    """

    run: Path
    logs: Path
    job: str
    restart: int
    number: int
    nodes: str


def decide(code: int, worst: int, now: JobState, restarts: int, stalled: int, tries: int) -> tuple[str, str]:
    """Return the event to record, and what the script does: "again", "requeue" or "end".

    code      of srun, the largest of its ranks
    worst     exit code of the first failure that a rank recorded
    restarts  of this start; `now.restarts` is larger where Slurm has put the job back already
    stalled   starts without a new checkpoint so far, this one included
    """
    if code == DONE:
        return "done", "end"
    if now.restarts > restarts:
        return "requeued", "end"
    if now.state not in ("RUNNING", ""):
        return ("failed" if now.reason == "TimeLimit" else "cancelled"), "end"
    if code == worst == STOPPED:  # else a rank crashed, and the ranks that srun then ended stopped as on request
        return "preempted", "requeue"
    if BAD_INPUT in (code, worst) or stalled > tries:
        return "failed", "end"
    return "crashed", "again"


def begin(run: Path, logs: Path, job: str) -> None:
    """Record the start, and before it the end of an earlier start that Slurm ended without running this script."""
    restarts, attempt, nodes = _restarts(), int(os.environ["ATTEMPT"]), os.environ["SLURM_JOB_NODELIST"]
    before = job_events.of_job(job_events.read(run), job)
    if before and before[-1]["event"] == "started" and before[-1].get("restart", restarts) < restarts:
        used = before[-1].get("nodes", nodes)
        lost = silent_nodes(used)
        job_events.append(run, "node failed" if lost else "requeued", job, nodes=lost or used)
    record_begin(Attempt(run, logs, job, restarts, attempt, nodes))


def end(run: Path, logs: Path, job: str, code: int, tries: int, pause_s: float) -> str:
    """Record how the attempt ended, and return what the script does."""
    which = Attempt(run, logs, job, _restarts(), int(os.environ["ATTEMPT"]), os.environ["SLURM_JOB_NODELIST"])
    return record_end(which, code, job_state(), tries, pause_s)


def record_begin(which: Attempt) -> None:
    """Record the start of an attempt, and note what its end is compared with."""
    run, logs, job = which.run, which.logs, which.job
    job_events.append(run, "started", job, restart=which.restart, attempt=which.number, nodes=which.nodes)
    notes = _notes(logs, job)
    notes |= {"began": time.time(), "stderr_bytes": _size(_stderr(logs, job)), "checkpoint": _checkpoint_id(run)}
    write_whole(_notes_file(logs, job), json.dumps(notes))


def record_end(which: Attempt, code: int, now: JobState, tries: int, pause_s: float) -> str:
    """Record how an attempt ended, and return "again SECONDS", "requeue" or "end EVENT", as `decide` has it."""
    run, logs, job = which.run, which.logs, which.job
    notes = _notes(logs, job)
    stalled = 1 if _checkpoint_id(run) != notes.get("checkpoint") else notes.get("stalled", 0) + 1
    recorded = first_failure.recorded_by_trainer(run, notes.get("began", 0) - CLOCK_SKEW_S)
    name = f"{job}_{which.restart}_{which.number}"
    first = first_failure.first(logs, name, _stderr(logs, job), notes.get("stderr_bytes", 0), recorded)
    event, step = decide(code, first.code if first else code, now, which.restart, stalled, tries)
    error = first_failure.event_fields(first) if first and event in job_events.BROKEN else {}
    job_events.append(run, event, job, restart=which.restart, attempt=which.number, code=code, **error)
    if step == "again" and silent_nodes(which.nodes):
        step = "requeue"  # a start on a node that does not answer would fail
    write_whole(_notes_file(logs, job), json.dumps(notes | {"stalled": stalled if step == "again" else 0}))
    pause_s = min(pause_s * 2 ** (stalled - 1), LONGEST_PAUSE_S)
    return {"again": f"again {pause_s:g}", "end": f"end {event}"}.get(step, step)


def job_state() -> JobState:
    """Ask scontrol for this job's state, up to three times while the controller does not answer."""
    for wait_s in (0, 2, 10):
        time.sleep(wait_s)
        shown = _output("scontrol", "show", "job", "-o", os.environ["SLURM_JOB_ID"])
        words = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        if "JobState" in words:
            return JobState(words["JobState"], words.get("Reason", ""), int(words.get("Restarts", 0)))
    return JobState()


def silent_nodes(nodes: str) -> str:
    """Return those of `nodes` (n[1-4]) that are down or do not answer, separated by commas."""
    shown = [line.split() for line in _output("sinfo", "-h", "-N", "-n", nodes, "-o", "%N %T").splitlines()]
    lost = {node for node, state in shown if state.endswith("*") or state.startswith(("down", "fail", "unk"))}
    return ",".join(sorted(lost))


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _job() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _checkpoint_id(run: Path) -> str:
    """Return a text that changes with every new checkpoint; "" where there is none."""
    try:
        stat = (run / CHECKPOINT).stat()
    except OSError:
        return ""
    return f"{stat.st_ino} {stat.st_mtime_ns}"


def _stderr(logs: Path, job: str) -> Path:
    """Return the log that the script, srun and rank 0 write to."""
    return logs / f"{job}_0_log.err"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _notes_file(logs: Path, job: str) -> Path:
    return logs / f"{job}_attempt.json"


def _notes(logs: Path, job: str) -> dict:
    """Read what the attempts of this job have noted for later ones: began, stderr_bytes, checkpoint, stalled.

    Notes that are damaged count as none, which stderr says: the job then is tried as if this were its first start.
    """
    path = _notes_file(logs, job)
    try:
        notes = read_object(path, "it counts as empty", absent={})
    except InputError as error:
        print(error, file=sys.stderr)
        return {}
    if wrong := wrong_field(notes, {}, NOTES):
        print(f"{path}: {wrong}; it counts as empty", file=sys.stderr)
        return {}
    return notes


def main() -> None:
    """Record the begin or the end, as the command line asks, and print what the script does after the end."""
    parser = argparse.ArgumentParser(prog="python -m slurm.attempt")
    parser.add_argument("what", choices=["begin", "end"])
    parser.add_argument("code", type=int, nargs="?", default=0)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--pause", type=float, default=5)
    given = parser.parse_args()
    run, logs = Path(os.environ["RUN"]), Path(os.environ["LOGS"])
    run.mkdir(parents=True, exist_ok=True)
    if given.what == "begin":
        begin(run, logs, _job())
    else:
        print(end(run, logs, _job(), given.code, given.tries, given.pause))


if __name__ == "__main__":
    main()
