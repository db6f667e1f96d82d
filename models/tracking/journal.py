"""Read what a run leaves in its folder as a service takes it: who it is, the rows of its journal, how it ended."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import final

from models.records import events, metrics
from models.records.jsonl import parse_lines
from models.records.run_folder import ENVIRONMENT, RECIPE, REPORT, TRACKING
from models.tracking.tracker import Point, State, TrackedRun
from pipeline.errors import InputError

ENDED: dict[str, State] = {"done": "finished", "stopped": "stopped", "failed": "failed"}
BEGUN = "started"


@final
class JournalTail:
    """Reads the rows that metrics.jsonl has got since it was last read; a line that is still being written waits.

    tail = JournalTail(folder)
    points = tail.read()

    A run that is resumed replaces the file by one without the rows that run again; it is then read from its beginning.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._begun_s = folder / metrics.FILE, started(folder)
        self._file, self._offset, self._elapsed_s = 0, 0, 0.0

    def read(self) -> list[Point]:
        """The new rows, in the order of writing; damaged ones are left out."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._file or found.st_size < self._offset:
                    self._file, self._offset, self._elapsed_s = found.st_ino, 0, 0.0
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        return [self._point(row) for row in parse_lines(data, metrics.check_row)]

    def _point(self, row: dict) -> Point:
        self._elapsed_s = row.get("timing", {}).get("elapsed_s", self._elapsed_s)
        return Point(
            row["step"],
            row.get("evaluation", ""),
            dict(_numbers(row)),
            round(1000 * (self._begun_s + self._elapsed_s)),
        )


def tracked_run(folder: Path) -> TrackedRun:
    """Who the run in a folder is. Raises InputError if the folder has no recipe.json that can be read."""
    recipe = _json(folder / RECIPE)
    name = recipe.get("name")
    if not isinstance(name, str):
        raise InputError(f"{folder / RECIPE} has no name, expected the recipe of a run; give a run's folder")
    own = recipe.get("run", {}).get("folder")
    environment = _json(folder / ENVIRONMENT) if (folder / ENVIRONMENT).exists() else {}
    config = dict(_flat(recipe)) | {f"environment.{key}": value for key, value in _flat(environment)}
    group = name.rpartition("/")[0] or None
    return TrackedRun(Path(own).name if own else name, group, config, folder / TRACKING)


def started(folder: Path) -> float:
    """When the run in a folder was last begun at its first step, in seconds since 1970; 0.0 if nothing says so."""
    return next((row["time"] for row in reversed(events.read(folder)) if row["event"] == BEGUN), 0.0)


def state_of(folder: Path) -> State:
    """How the run in a folder stands, by the last event of its ranks."""
    rows = [row for row in events.read(folder) if "rank" in row]
    return ENDED.get(rows[-1]["event"], "running") if rows else "running"


def summary_of(folder: Path, state: State) -> dict[str, str | float]:
    """The state of a run, how often each event came, the last score of each evaluation, and the path of its report."""
    counts = Counter(row["event"] for row in events.read(folder) if "rank" in row)
    scores = metrics.latest_scores(metrics.read(folder))
    found: dict[str, str | float] = {"state": state} | {f"events/{event}": float(n) for event, n in counts.items()}
    found |= {f"final/{name.replace(' ', '/', 1)}": value for name, value in scores.items() if value is not None}
    return found | ({"report": str((folder / REPORT).absolute())} if (folder / REPORT).exists() else {})


def _numbers(row: dict) -> Iterator[tuple[str, float]]:
    """The finite numbers of a row by the names that TensorBoard has for them, too; lists, one number a class, are left
    out."""
    for key, value in row.items():
        prefix = row["evaluation"] if key == "values" else key
        for name, number in value.items() if isinstance(value, dict) else [("", value)]:
            if key not in ("step", "evaluation", *metrics.OF_CLASSES) and number is not None:
                yield f"{prefix}/{name}" if name else key, float(number)


def _flat(part: dict, prefix: str = "") -> Iterator[tuple[str, str | int | float | bool | None]]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str | int | float | None) else json.dumps(value)


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_bytes().decode())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give the folder of a run") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); restore it") from error
    return found if isinstance(found, dict) else {}
