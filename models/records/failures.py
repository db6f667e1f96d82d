"""Why a run failed: each rank that fails writes `run folder`/failed/rank-N.json, so that the first cause can be
told from the failures that follow from it on other ranks.
"""

import contextlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self, final

from models.records import events
from models.records.exit_codes import BAD_INPUT, CRASHED
from models.records.full_disk import DISK_FULL, full_folder
from models.records.jsonl import NUMBER, TEXT, TEXT_OR_NONE, wrong_field
from pipeline.errors import InputError, command
from pipeline.store.atomic_write import write_whole

FOLDER = "failed"
FIELDS = {"time": NUMBER, "rank": (int,), "node": TEXT, "error": TEXT, "code": (int,), "secondary": (bool,)} | {
    "log": TEXT_OR_NONE,
    "line": (int,),
}
LOST_PEER = re.compile(
    r"closed by peer|connection (reset|refused|closed)|broken pipe|connectfullmesh|socket closed|timed out waiting"
    r"|nccl (watchdog|communicator)|remote process exited|peer closed|DistBackendError|DistNetworkError",
    re.IGNORECASE,
)
"""Error messages of a rank whose peer, another rank, is gone."""
PEER_WAIT_S = 3.0
"""Seconds that a rank which lost its peer waits for that peer's own error."""


class LostPeer(RuntimeError):
    """Another rank is gone and this one cannot go on; the message holds that rank's error where it wrote one."""


def record(folder: Path | None, rank: int, error: str, *, code: int = CRASHED, log: str | None = None) -> dict:
    """Write `folder`/failed/rank-N.json atomically, and a "failed" event; -> its content.

    {time, rank, node, error, code, secondary, log, line}: `secondary` is True if the rank only lost its peer; what it
    prints next begins at `line` of the file `log`. Nothing is written if there is no run folder yet. A disk error is
    ignored, so that it does not replace the error to be recorded.
    """
    log = log or _stderr_file()
    found: dict[str, object] = {"time": time.time(), "rank": rank, "node": events.NODE, "error": error, "code": code}
    found |= {"secondary": LOST_PEER.search(error) is not None, "log": log, "line": line_count(log) + 1}
    with contextlib.suppress(OSError):
        if folder is not None and folder.is_dir():
            (folder / FOLDER).mkdir(exist_ok=True)
            write_whole(folder / FOLDER / f"rank-{rank}.json", json.dumps(found) + "\n")
            if not found["secondary"] or rank == 0:
                events.append(folder, "failed", rank=rank, node=events.NODE, error=error)
    return found


def read(folder: Path) -> list[dict]:
    """The failures that ranks have recorded, as `record` returns them, in no order; damaged files are left out."""
    found = []
    for path in (folder / FOLDER).glob("rank-*.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(path.read_text()))
    return [each for each in found if wrong_field(each, FIELDS) is None]


def first_cause(folder: Path) -> dict | None:
    """The earliest failure that is not a lost peer, else the earliest; None if no rank has failed."""
    return min(read(folder), key=lambda each: (each["secondary"], each["time"]), default=None)


def describe(failure: dict) -> str:
    """A failure as one line: rank, node and error."""
    return f"rank {failure['rank']} on {failure['node']}: {failure['error']}"


def line_count(path: str | Path | None) -> int:
    """Number of lines that a log has now; 0 if there is none."""
    with contextlib.suppress(OSError):
        return Path(path).read_bytes().count(b"\n") if path else 0
    return 0


@final
@dataclass
class FailureLog:
    """Context manager that records an error raised inside, for `slurm status` and torchrun's summary, and re-raises it.

    with FailureLog(folder, rank, ranks) as failures: ...

    A rank that only lost its peer raises LostPeer with that peer's error; a full disk becomes an InputError. Before
    `run_began`, an InputError is not recorded in `folder`, which may be another run's.
    """

    folder: Path
    rank: int
    ranks: int
    running: bool = False

    def run_began(self) -> None:
        """Remove failures of an earlier start: this rank's, and on rank 0 those of ranks that no longer exist."""
        self.running = True
        for path in (self.folder / FOLDER).glob("rank-*.json"):
            with contextlib.suppress(ValueError, OSError):  # of what no rank has written, a folder say
                number = int(path.stem.removeprefix("rank-"))
                if number == self.rank or (self.rank == 0 and number >= self.ranks):
                    path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
            return
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            where = full_folder(error, self.folder)
            full = f"cannot write in {where}: {error.strerror}; free some space and run again"
            self._record(InputError(full))
            raise InputError(full) from error
        self._record(error)

    def _record(self, error: BaseException) -> None:
        bad_input = isinstance(error, InputError)
        line = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
        line = line.removeprefix("pipeline.errors.").removeprefix("torch.distributed.")
        folder = self.folder if self.running or not bad_input else None
        own = record(folder, self.rank, line, code=BAD_INPUT if bad_input else CRASHED)
        if own["secondary"] and self.ranks > 1:
            why = (
                _peers_error(self.folder) if self.running else "it ended before the run began; its own message says why"
            )
            raise LostPeer(f"{describe(own | {'error': 'connection closed by peer'})}: {why}") from error
        if self.ranks > 1 and not bad_input:
            print(describe(own), file=sys.stderr, flush=True)
        if (torchruns := os.environ.get("TORCHELASTIC_ERROR_FILE")) is not None:
            Path(torchruns).write_text(json.dumps({"message": describe(own), "timestamp": int(own["time"])}))


def run_rank(main: Callable[[], int | None]) -> NoReturn:
    """Run a rank's main as `pipeline.errors.command` does, but end one of several ranks at once after a failure.

    The process then ends by os._exit, without destructors: those of a process group whose other members are gone can
    hang (NCCL), and the other ranks wait until this process has ended.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        command(main)
    try:
        command(main)
    except SystemExit as ended:
        if not ended.code:
            raise
        code = ended.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = CRASHED
    except LostPeer as error:
        print(error, file=sys.stderr)
        code = CRASHED
    except BaseException:
        traceback.print_exc()
        code = CRASHED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _peers_error(folder: Path) -> str:
    """The error that the lost peer has recorded; waits up to PEER_WAIT_S for it."""
    until = time.monotonic() + PEER_WAIT_S
    while ((cause := first_cause(folder)) is None or cause["secondary"]) and time.monotonic() < until:
        time.sleep(0.05)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        time.sleep(1.0)  # torchrun reports the first rank that it sees end as the cause: the peer should be that one
    return "it ended without an error of its own" if cause is None or cause["secondary"] else describe(cause)


def _stderr_file() -> str | None:
    """The file that this process's stderr is redirected to; None if it is a terminal or a pipe."""
    with contextlib.suppress(OSError):
        path = os.readlink("/proc/self/fd/2")
        return path if path.startswith("/") and not path.startswith("/dev/") else None
    return None
