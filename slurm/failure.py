"""The first error of many ranks: each writes down its own; who merely lost its peer is not asked first."""

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from models.records.failures import FOLDER, LOST_PEER
from models.records.failures import read as read_failures

SRUN = re.compile(r"srun: error: (?P<node>[\w.-]+): tasks? (?P<ranks>[\d,-]+): (?P<how>.+)")
CODE = re.compile(r"Exited with exit code (\d+)")
BY_SIGNAL = re.compile(r"Killed|Segmentation fault|Bus error|Aborted|Out Of Memory|Floating point|Illegal instruction")


@dataclass(frozen=True)
class Failure:
    """How one rank failed: `line` of `log` is where its traceback begins, or where srun says that it was killed."""

    node: str
    rank: str
    error: str
    log: str
    line: int
    time: float
    code: int = 1
    """The rank's exit code: 2 will not get better by trying again."""

    @property
    def secondary(self) -> bool:
        """Whether it failed because another one had."""
        return LOST_PEER.search(self.error) is not None or self.error == "Terminated"

    def __str__(self) -> str:
        return f"{self.node}, rank {self.rank}: {self.error}  ({self.log}:{self.line})"


def write(folder: Path, name: str, failure: Failure) -> None:
    """Put a rank's failure into `folder`, whole or not at all."""
    path = folder / f"{name}_{failure.rank}_error.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(failure)))
    os.replace(partial, path)


def first(folder: Path, name: str, stderr: Path, start: int = 0, told: Sequence[Failure] = ()) -> Failure | None:
    """The error that began it: of ranks that wrote one down under `name`, or of what srun reported.

    stderr, start  srun's own messages, from this byte on
    told           failures known from elsewhere

    A rank's own exception, then a rank that a signal ended, then the ranks that lost their peers; the earliest of each.
    """
    written = [Failure(**json.loads(path.read_text())) for path in folder.glob(f"{name}_*_error.json")]
    written += [each for each in told if each.rank not in [known.rank for known in written]]
    reported = _reported(stderr, start)
    orders = (
        [each for each in written if not each.secondary],
        [each for each in reported if BY_SIGNAL.search(each.error)],
        written,
        reported,
    )
    for found in orders:
        if found:
            return min(found, key=lambda failure: (failure.time, failure.line))
    return None


def told(run: Path, since: float) -> list[Failure]:
    """What the trainer itself put into `run`/failed: a rank that ended at once, for it hung, could not tell anybody."""
    return [
        Failure(row["node"], str(row["rank"]), row["error"], row["log"] or str(run / FOLDER), row["line"], row["time"],
                row["code"])
        for row in read_failures(run) if row["time"] >= since
    ]  # fmt: skip


def fields(found: Failure) -> dict[str, object]:
    """What an event says of a failure; it has a time and a code of its own."""
    return {name: value for name, value in asdict(found).items() if name not in ("time", "code")}


def _reported(stderr: Path, start: int) -> list[Failure]:
    if not stderr.exists():
        return []
    data = stderr.read_bytes()
    before, found, now = data[:start].count(b"\n"), [], time.time()
    for number, line in enumerate(data[start:].decode(errors="replace").splitlines(), before + 1):
        if said := SRUN.search(line):
            code = CODE.search(said["how"])
            place = said["node"], said["ranks"], said["how"].strip(), str(stderr), number, now
            found.append(Failure(*place, int(code[1]) if code else 1))
    return found
