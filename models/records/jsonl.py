"""Files of one JSON object a line, which several writers extend and a kill may tear. The standard library only."""

import contextlib
import json
import os
from pathlib import Path


def read_lines(path: Path) -> list[dict]:
    """The rows of a file in the order of writing, none where there is no file; a torn line is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def append_line(path: Path, row: dict) -> None:
    """Add a row in one write, so that lines of two writers never mix."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (json.dumps(row) + "\n").encode())
    finally:
        os.close(file)
