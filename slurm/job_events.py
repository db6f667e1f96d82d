"""Events of a run's jobs, as rows of the run's events.jsonl. Events of its ranks stand there, too, and name no job.

queued  submitted  started  preempted  requeued  node failed  crashed  done  failed  cancelled

A member of a sweep on this machine (slurm.local) is queued until it is its turn. This file is imported between two
starts of a job: the standard library only.
"""

from pathlib import Path

from models.records import events

FILE, read = events.FILE, events.read
OVER = "done", "failed", "cancelled"
"""Events after which a job does not restart by itself."""
BROKEN = "crashed", "failed", "node failed"
"""Events that have an error to show."""


def append(run: Path, event: str, job: str, **more: object) -> dict:
    """Append an event of a job to `run`/events.jsonl and return the row; fields that are None are left out."""
    return events.append(run, event, job=job, **more)


def of_job(rows: list[dict], job: str) -> list[dict]:
    """Return the events of one job, its submission first: a job may start before the login node has written that."""
    return sorted((row for row in rows if row.get("job") == job), key=lambda row: row["event"] != "submitted")
