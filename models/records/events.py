"""What happened to a run, one JSON line an event, and how far each rank has come.

Ranks write here (started, resumed, stopped, done, failed; each row names its rank), and so does whoever starts and
ends their jobs (each row names its job). The standard library only.
"""

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, final

from models.records.jsonl import append_line, read_lines

FILE, HEARTBEAT = "events.jsonl", "heartbeat"
BEAT_S = 10.0
NODE = os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def note(folder: Path, event: str, **more: object) -> dict:
    """Append an event to `folder`/events.jsonl in one write, so that lines of two writers never mix; -> the row."""
    row = {"time": round(time.time(), 3), "event": event}
    row |= {key: value for key, value in more.items() if value is not None}
    append_line(folder / FILE, row)
    return row


def read(folder: Path) -> list[dict]:
    """The events of a run in the order of writing; a line torn by a kill or a full disk is left out."""
    return read_lines(folder / FILE)


def latest(folder: Path, key: str) -> Any:
    """What the last event that has `key` says of it; None where none has."""
    return next((row[key] for row in reversed(read(folder)) if key in row), None)


@final
class Heartbeat:
    """`folder`/heartbeat/rank-N, {time, step, node}: rewritten after a step, every ten seconds at most."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path, self.due = folder / HEARTBEAT / f"rank-{rank}", 0.0
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, step: int) -> None:
        if (now := time.monotonic()) < self.due:
            return
        self.due = now + BEAT_S
        with contextlib.suppress(OSError):  # a sign of life is no reason to die
            self.path.write_text(json.dumps({"time": round(time.time(), 3), "step": step, "node": NODE}) + "\n")


def heard(folder: Path) -> dict[int, dict]:
    """The last heartbeat of each rank that left one."""
    found = {}
    for path in (folder / HEARTBEAT).glob("rank-*"):
        with contextlib.suppress(OSError, ValueError):  # being rewritten
            found[int(path.name.removeprefix("rank-"))] = json.loads(path.read_text())
    return found
