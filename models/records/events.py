"""events.jsonl: what happened to a run, one JSON object a line.

Ranks append rows that name their rank (started, resumed, extended, stopped, done, failed); `slurm` appends rows that
name a job.
The standard library only.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from models.records.jsonl import NUMBER, TEXT, append_line, left_out, read_lines, wrong_field

FILE = "events.jsonl"
NEEDED = {"time": NUMBER, "event": TEXT}
OPTIONAL = {
    **dict.fromkeys(("step", "steps", "ranks", "restart", "attempt", "line", "extensions", "device_images"), (int,)),
    **dict.fromkeys(("trained", "parameters"), (int,)),
    **dict.fromkeys(("job", "node", "nodes", "error", "log", "why", "backend", "numerics", "schedule"), TEXT),
    **dict.fromkeys(("epochs", "lr"), NUMBER),
    "rank": (int, str),
    "code": (int, str),
}
NEEDED_WITH = {"error": ("node", "rank"), "log": ("line",)}
"""Fields without which a field cannot be shown."""
NODE = os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def append(folder: Path, event: str, **fields: object) -> dict:
    """Append {time, event, **fields} to `folder`/events.jsonl in one write, without fields that are None; -> the row.

    append(folder, "stopped", rank=0, step=300)
    """
    row: dict[str, object] = {"time": round(time.time(), 3), "event": event}
    row |= {key: value for key, value in fields.items() if value is not None}
    append_line(folder / FILE, row)
    return row


def read(folder: Path) -> list[dict]:
    """The events of a run in the order of writing; damaged rows are left out.

    Raises InputError if the file cannot be read.
    """
    return read_lines(folder / FILE, check_row)


def damage(folder: Path) -> str | None:
    """One line about the rows of `folder`/events.jsonl that `read` leaves out; None if there are none."""
    return left_out(folder / FILE, check_row)


def check_row(row: dict) -> str | None:
    """What is wrong with an event, in a few words; None if nothing is.

    check_row({"time": 1.5})  # "no event"
    """
    if wrong := wrong_field(row, NEEDED, OPTIONAL):
        return wrong
    needed = [name for field, names in NEEDED_WITH.items() if field in row for name in names]
    needed += ["step"] if row["event"] == "done" and "node" in row and "job" not in row else []
    needed += ["nodes"] if row["event"] == "node failed" else []
    return next((f"no {name}" for name in needed if name not in row), None)


def latest(folder: Path, key: str) -> Any:
    """The value of `key` in the last event that has it; None if none has."""
    return next((row[key] for row in reversed(read(folder)) if key in row), None)
