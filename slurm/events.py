"""What happened to a run, one JSON line an event, written from the login node and from the batch host.

submitted  started  preempted  requeued  node failed  crashed  done  failed  cancelled

This file and slurm/between.py import the standard library only: they run between two starts of a job.
"""

import contextlib
import json
import os
import time
from pathlib import Path

FILE = "events.jsonl"
OVER = "done", "failed", "cancelled"
"""Events after which a job does not come back by itself."""
BROKEN = "crashed", "failed", "node failed"
"""Events that have an error to show."""


def note(run: Path, event: str, job: str, **more: object) -> dict:
    """Append an event to `run`/events.jsonl in one write, so that lines of two writers never mix; -> the event."""
    row = {"time": round(time.time(), 3), "event": event, "job": job}
    row |= {key: value for key, value in more.items() if value is not None}
    line = (json.dumps(row) + "\n").encode()
    file = os.open(run / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)
    return row


def read(run: Path) -> list[dict]:
    """The events of a run in the order of writing; a line torn by a kill or a full disk is left out."""
    path, rows = run / FILE, []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def of_job(rows: list[dict], job: str) -> list[dict]:
    """The events of one job, its submission first: the job may be faster than the login node.

    Ranks write rows of their own into the same file; those name no job.
    """
    return sorted((row for row in rows if row.get("job") == job), key=lambda row: row["event"] != "submitted")
