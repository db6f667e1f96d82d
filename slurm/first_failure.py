"""Find the failure that began a crash, among those that ranks recorded and those that srun reported.

Each rank records its own failure; ranks that lost their connection to another one are considered last. This file is
imported between two starts of a job: the standard library only.
"""

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from models.records.failures import FOLDER, LOST_PEER
from models.records.failures import read as read_failures
from models.records.json_file import read_object
from models.records.jsonl import NUMBER, TEXT, wrong_field
from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole

FIELDS = {**dict.fromkeys(("node", "rank", "error", "log"), TEXT), "line": (int,), "time": NUMBER}
SRUN = re.compile(r"srun: error: (?P<node>[\w.-]+): tasks? (?P<ranks>[\d,-]+): (?P<how>.+)")
CODE = re.compile(r"Exited with exit code (\d+)")
BY_SIGNAL = re.compile(r"Killed|Segmentation fault|Bus error|Aborted|Out Of Memory|Floating point|Illegal instruction")


@final
@dataclass(frozen=True)
class Failure:
    """Failure of one rank: `line` of `log` is where its traceback begins, or where srun reports that it was killed."""

    node: str
    rank: str
    error: str
    log: str
    line: int
    time: float
    code: int = 1
    """The rank's exit code; 2 is bad input, for which the job is not tried again."""

    @property
    def secondary(self) -> bool:
        """Say whether the rank failed because another one had."""
        return LOST_PEER.search(self.error) is not None or self.error == "Terminated"

    def __str__(self) -> str:
        return f"{self.node}, rank {self.rank}: {self.error}  ({self.log}:{self.line})"


def write(folder: Path, name: str, failure: Failure) -> None:
    """Write a rank's failure into `folder`, atomically; `name` is that of the start of the job."""
    write_whole(folder / f"{name}_{failure.rank}_error.json", json.dumps(asdict(failure)))


def _read(path: Path) -> Failure | None:
    try:
        found = read_object(path, "it is left out")
    except InputError as error:
        print(error, file=sys.stderr)
        return None
    if wrong := wrong_field(found, FIELDS, {"code": (int,)}):
        print(f"{path}: {wrong}; it is left out", file=sys.stderr)
        return None
    return Failure(**{name: value for name, value in found.items() if name in (*FIELDS, "code")})


def first(folder: Path, name: str, stderr: Path, start: int = 0, recorded: Sequence[Failure] = ()) -> Failure | None:
    """Return the failure that began the crash of the start `name`; None where there is no trace of any.

    folder         where `write` put the ranks' failures
    stderr, start  the log with srun's own messages, read from this byte on
    recorded       failures that the trainer recorded itself

    A rank's own exception comes first, then a rank that a signal ended, then ranks that lost their peers; of each kind
    the earliest. A damaged file is named on stderr and left out: how the start ended is recorded in any case.
    """
    written = [each for path in folder.glob(f"{name}_*_error.json") if (each := _read(path)) is not None]
    written += [each for each in recorded if each.rank not in [known.rank for known in written]]
    reported = _reported_by_srun(stderr, start)
    kinds = (
        [each for each in written if not each.secondary],
        [each for each in reported if BY_SIGNAL.search(each.error)],
        written,
        reported,
    )
    for found in kinds:
        if found:
            return min(found, key=lambda failure: (failure.time, failure.line))
    return None


def recorded_by_trainer(run: Path, since: float) -> list[Failure]:
    """Return the failures in `run`/failed since a time (s): a rank that hung ends before it could call `write`."""
    return [
        Failure(row["node"], str(row["rank"]), row["error"], row["log"] or str(run / FOLDER), row["line"], row["time"],
                row["code"])
        for row in read_failures(run) if row["time"] >= since
    ]  # fmt: skip


def event_fields(found: Failure) -> dict[str, object]:
    """Return a failure as fields of an event, which has a time and a code of its own."""
    return {name: value for name, value in asdict(found).items() if name not in ("time", "code")}


def _reported_by_srun(stderr: Path, start: int) -> list[Failure]:
    if not stderr.exists():
        return []
    data = stderr.read_bytes()
    before, found, now = data[:start].count(b"\n"), [], time.time()
    for number, line in enumerate(data[start:].decode(errors="replace").splitlines(), before + 1):
        if match := SRUN.search(line):
            code = CODE.search(match["how"])
            place = match["node"], match["ranks"], match["how"].strip(), str(stderr), number, now
            found.append(Failure(*place, int(code[1]) if code else 1))
    return found
