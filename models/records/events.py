"""events.jsonl: what happened to a run, one JSON object a line.

Ranks append rows that name their rank (started, resumed, stopped, done, failed); `slurm` appends rows that name a job.
The standard library only.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from models.records.jsonl import append_line, read_lines

FILE = "events.jsonl"
NODE = os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def append(folder: Path, event: str, **fields: object) -> dict:
    """Append {time, event, **fields} to `folder`/events.jsonl in one write, without fields that are None; -> the row.

    append(folder, "stopped", rank=0, step=300)
    """
    row = {"time": round(time.time(), 3), "event": event}
    row |= {key: value for key, value in fields.items() if value is not None}
    append_line(folder / FILE, row)
    return row


def read(folder: Path) -> list[dict]:
    """The events of a run in the order of writing; a line cut short by a kill or a full disk is skipped."""
    return read_lines(folder / FILE)


def latest(folder: Path, key: str) -> Any:
    """The value of `key` in the last event that has it; None if none has."""
    return next((row[key] for row in reversed(read(folder)) if key in row), None)
