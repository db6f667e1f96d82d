"""Send the rows of a run's journal that a service has not got yet, each once, over any number of starts.

with Sender(folder, "wandb") as sender:
    sender.send()           # as often as there may be something new
    sender.finish("finished")

What was sent stands in `run folder`/tracking/<service>.json; a lock beside it keeps two processes apart.
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, final

from models.records.jsonl import NUMBER, TEXT_OR_NONE, wrong_field
from models.records.run_folder import TRACKING
from models.tracking import tracker_of
from models.tracking.journal import JournalTail, started, summary_of, tracked_run
from models.tracking.tracker import Point, State, Tracker
from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole

ROWS = 200
"""Most rows that are handed over at once."""
SECRET = re.compile(r"key|token|password|passwd|secret|credential", re.IGNORECASE)
"""Names of environment variables whose values are not printed."""
MESSAGE = 200
"""Most characters of what a service says."""


@dataclass
class Progress:
    """What a service has got of a run.

    id       of the run there; None before it is open
    begun    when the run in the folder was begun, in seconds since 1970: after another beginning it is another run
    step     of the last row that was handed over
    rows     names of the rows of that step that were
    sending  [step, row name] of the rows that were being handed over when this was written
    """

    id: str | None
    begun: float
    step: int
    rows: list[str]
    sending: list[list]

    def lacks(self, point: Point) -> bool:
        """Whether a row was not handed over yet. Rows that run again after a stop have the numbers of those before."""
        return point.step > self.step or (point.step == self.step and point.row not in self.rows)

    def add(self, points: Sequence[Point]) -> None:
        """Note that these rows, in the order of writing, were handed over."""
        for point in points:
            self.rows = [*(self.rows if point.step == self.step else ()), point.row]
            self.step = point.step
        self.sending = []


@final
class Sender:
    """Sends a run to a service; `open` is part of the first `send`, so that a service that fails may be tried again."""

    def __init__(self, folder: Path, service: str, tracker: Tracker | None = None) -> None:
        """Lock the run for this service; `note` is a line on what is odd, or None.

        Raises InUse if another process sends the run to it, InputError if the folder holds no run.
        """
        self.folder, self.service = folder, service
        self.run = tracked_run(folder)
        self._state = folder / TRACKING / f"{service}.json"
        self._state.parent.mkdir(exist_ok=True)
        self._lock = _locked(self._state.with_suffix(".lock"))
        self._tracker = tracker or tracker_of(service)
        self._open = False
        self._tail = JournalTail(folder)
        self._waiting: list[Point] = []
        self.progress, self.note = _read(self._state, started(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._lock)

    def open(self) -> str | None:
        """Open the run at the service, once; -> where it can be seen, if that is new and the service says so."""
        if self._open:
            return None
        self.progress.id = self._tracker.open(self.run, self.progress.id)
        self._save()
        self._open = True
        where = self._tracker.where()
        return None if where is None else redacted(where)

    def send(self) -> int:
        """Hand over the rows that the service lacks; -> their number. After an error the next call sends the rest."""
        self.open()
        held = {(point.step, point.row) for point in self._waiting}
        new = [point for point in self._tail.read() if self.progress.lacks(point)]
        self._waiting += [point for point in new if (point.step, point.row) not in held]
        sent = 0
        while points := self._waiting[:ROWS]:
            mine = [point for point in points if not self._was_sent(point)]
            self.progress.sending = [[point.step, point.row] for point in mine]
            self._save()
            if mine:
                self._tracker.log(mine)
                time.sleep(self._tracker.settle_s)
            self.progress.add(points)
            self._save()
            del self._waiting[: len(points)]
            sent += len(mine)
        return sent

    def finish(self, state: State) -> None:
        """Write the summary, and leave the run at the service as it stands."""
        self.open()
        self._tracker.finish(summary_of(self.folder, state), state)

    def _was_sent(self, point: Point) -> bool:
        return [point.step, point.row] in self.progress.sending and self._tracker.holds(point)

    def _save(self) -> None:
        write_whole(self._state, json.dumps(asdict(self.progress)) + "\n")


class InUse(InputError):
    """Another process sends the same run to the same service."""


def without_secrets(error: BaseException) -> str:
    """An error as one `redacted` line, with its type unless it is an InputError."""
    line = next(iter(str(error).strip().splitlines()), "")
    kind = "" if isinstance(error, InputError) else type(error).__name__
    return redacted(": ".join(part for part in (kind, line) if part))


def redacted(text: str) -> str:
    """A text without the user and password of a URL and without the values of secret variables, MESSAGE long at most.

    redacted("https://me:secret@host/db")  # "https://***@host/db"
    """
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 3:
            text = text.replace(value, "***")
    text = re.sub(r"://[^/@\s]+@", "://***@", text)
    return text if len(text) <= MESSAGE else f"{text[:MESSAGE]}..."


def _locked(path: Path) -> int:
    lock = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise InUse(f"{path.parent.parent} is being sent by another process; wait for it to end") from error
    return lock


def _read(path: Path, begun: float) -> tuple[Progress, str | None]:
    """What was sent so far, and a line if that cannot be read; nothing was if the run was begun anew since."""
    needed = {"id": TEXT_OR_NONE, "begun": NUMBER, "step": (int,), "rows": (list,), "sending": (list,)}
    nothing = Progress(None, begun, -1, [], [])
    try:
        found = json.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return nothing, None
    except (OSError, ValueError):
        found = None
    if found is None or wrong_field(found, needed) is not None:
        return nothing, f"{path} is damaged: the run begins anew at {path.stem}"
    return (Progress(**{name: found[name] for name in needed}) if found["begun"] == begun else nothing), None
