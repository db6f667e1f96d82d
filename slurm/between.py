"""Between two starts of a job, on its batch host: write down what happened, and say what comes next.

    python -m slurm.between begin              before srun
    python -m slurm.between end CODE           after it; prints "again SECONDS", "requeue" or "end EVENT"

Reads RUN, LOGS, ATTEMPT and Slurm's own variables. No torch: it starts in a tenth of a second.
"""

import argparse
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from models.records.exit_codes import BAD_INPUT, DONE, STOPPED
from slurm import events, failure

CHECKPOINT = "last.pt"
LONGEST_PAUSE_S = 60
CLOCKS_S = 5
"""How far the clocks of nodes may be apart."""


@dataclass(frozen=True)
class Now:
    """What Slurm says of this job: `restarts` counts those to come, too; state and reason are "" if it is silent."""

    state: str = ""
    reason: str = ""
    restarts: int = 0


def decide(code: int, worst: int, now: Now, restarts: int, dry: int, tries: int) -> tuple[str, str]:
    """-> the event to note, and what the script does: "again", "requeue" or "end".

    code      of srun, the largest of its ranks
    worst     exit code of the first failure that a rank wrote down
    restarts  of this start; `now.restarts` is larger where Slurm has put the job back already
    dry       starts without a new checkpoint so far, this one included
    """
    if code == DONE:
        return "done", "end"
    if now.restarts > restarts:
        return "requeued", "end"
    if now.state not in ("RUNNING", ""):
        return ("failed" if now.reason == "TimeLimit" else "cancelled"), "end"
    if code == worst == STOPPED:  # else a rank broke, and those that srun then ended stopped well
        return "preempted", "requeue"
    if BAD_INPUT in (code, worst) or dry > tries:
        return "failed", "end"
    return "crashed", "again"


def begin(run: Path, logs: Path, job: str) -> None:
    """Note the start; and, first, what Slurm did to the one before without a word to this script."""
    restarts, attempt, nodes = _restarts(), int(os.environ["ATTEMPT"]), os.environ["SLURM_JOB_NODELIST"]
    before = events.of_job(events.read(run), job)
    if before and before[-1]["event"] == "started" and before[-1]["restart"] < restarts:
        lost = silent(before[-1]["nodes"])
        events.note(run, "node failed" if lost else "requeued", job, nodes=lost or before[-1]["nodes"])
    events.note(run, "started", job, restart=restarts, attempt=attempt, nodes=nodes)
    notes = _notes(logs, job)
    notes |= {"began": time.time(), "stderr_bytes": _size(_stderr(logs, job)), "checkpoint": _mark(run)}
    _notes_file(logs, job).write_text(json.dumps(notes))


def end(run: Path, logs: Path, job: str, code: int, tries: int, pause_s: float) -> str:
    """Note how it ended; -> what the script does."""
    notes, restarts, attempt = _notes(logs, job), _restarts(), os.environ["ATTEMPT"]
    dry = 1 if _mark(run) != notes.get("checkpoint") else notes.get("dry", 0) + 1
    told = failure.told(run, notes.get("began", 0) - CLOCKS_S)
    name = f"{job}_{restarts}_{attempt}"
    first = failure.first(logs, name, _stderr(logs, job), notes.get("stderr_bytes", 0), told)
    event, step = decide(code, first.code if first else code, slurm_says(), restarts, dry, tries)
    error = failure.fields(first) if first and event in events.BROKEN else {}
    events.note(run, event, job, restart=restarts, attempt=int(attempt), code=code, **error)
    if step == "again" and silent(os.environ["SLURM_JOB_NODELIST"]):
        step = "requeue"  # a node does not answer: no start there will succeed
    _notes_file(logs, job).write_text(json.dumps(notes | {"dry": dry if step == "again" else 0}))
    pause_s = min(pause_s * 2 ** (dry - 1), LONGEST_PAUSE_S)
    return {"again": f"again {pause_s:g}", "end": f"end {event}"}.get(step, step)


def slurm_says() -> Now:
    """This job's state, asked a few times if the controller is silent."""
    for wait_s in (0, 2, 10):
        time.sleep(wait_s)
        shown = _output("scontrol", "show", "job", "-o", os.environ["SLURM_JOB_ID"])
        words = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        if "JobState" in words:
            return Now(words["JobState"], words.get("Reason", ""), int(words.get("Restarts", 0)))
    return Now()


def silent(nodes: str) -> str:
    """Those of `nodes` (n[1-4]) that are down or do not answer, separated by commas."""
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


def _mark(run: Path) -> str:
    """Changes with every new checkpoint."""
    try:
        stat = (run / CHECKPOINT).stat()
    except OSError:
        return ""
    return f"{stat.st_ino} {stat.st_mtime_ns}"


def _stderr(logs: Path, job: str) -> Path:
    return logs / f"{job}_0_log.err"  # the script's, srun's and rank 0's


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _notes_file(logs: Path, job: str) -> Path:
    return logs / f"{job}_attempt.json"


def _notes(logs: Path, job: str) -> dict:
    path = _notes_file(logs, job)
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError:  # cut short by a full disk
        return {}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m slurm.between")
    parser.add_argument("what", choices=["begin", "end"])
    parser.add_argument("code", type=int, nargs="?", default=0)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--pause", type=float, default=5)
    asked = parser.parse_args()
    run, logs = Path(os.environ["RUN"]), Path(os.environ["LOGS"])
    run.mkdir(parents=True, exist_ok=True)
    if asked.what == "begin":
        begin(run, logs, _job())
    else:
        print(end(run, logs, _job(), asked.code, asked.tries, asked.pause))


if __name__ == "__main__":
    main()
