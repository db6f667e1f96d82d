"""Append to and read files of one JSON object a line, which several processes write. The standard library only."""

import contextlib
import json
import os
from pathlib import Path


def read_lines(path: Path) -> list[dict]:
    """The rows of a file in the order of writing, [] if there is no file; a line cut short by a kill is skipped."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def append_line(path: Path, row: dict) -> None:
    """Append a row in one write call, so that lines of several writers do not mix.

    append_line(folder / "events.jsonl", {"event": "started"})
    """
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (json.dumps(row) + "\n").encode())
    finally:
        os.close(file)
