"""What happened to a run's jobs; rows in the run's events.jsonl, beside those of its ranks, which name no job.

queued  submitted  started  preempted  requeued  node failed  crashed  done  failed  cancelled

queued is said of a member of a sweep that runs on this machine (slurm.local) and waits for its turn there.

This file, slurm/failure.py and slurm/between.py import no torch: they run between two starts of a job.
"""

from pathlib import Path

from models.records import events

FILE, read = events.FILE, events.read
OVER = "done", "failed", "cancelled"
"""Events after which a job does not come back by itself."""
BROKEN = "crashed", "failed", "node failed"
"""Events that have an error to show."""


def note(run: Path, event: str, job: str, **more: object) -> dict:
    """Append an event of a job to `run`/events.jsonl; -> the row."""
    return events.append(run, event, job=job, **more)


def of_job(rows: list[dict], job: str) -> list[dict]:
    """The events of one job, its submission first: the job may be faster than the login node.

    Ranks write rows of their own into the same file; those name no job.
    """
    return sorted((row for row in rows if row.get("job") == job), key=lambda row: row["event"] != "submitted")
