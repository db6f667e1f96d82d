"""Why a run broke: each rank that fails says so in `run folder`/failed, and the first cause is told apart from what
the others meet because of it.
"""

import contextlib
import errno
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
from pipeline.errors import InputError, command

FOLDER = "failed"
DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
LOST_PEER = re.compile(
    r"closed by peer|connection (reset|refused|closed)|broken pipe|connectfullmesh|socket closed|timed out waiting"
    r"|nccl (watchdog|communicator)|remote process exited|peer closed|DistBackendError|DistNetworkError",
    re.IGNORECASE,
)
"""What ranks say when another one is gone."""
PEER_WAIT_S = 3.0


class LostPeer(RuntimeError):
    """Another rank is gone, and this one cannot go on without it; says why, where that rank has said so."""


def note(folder: Path | None, rank: int, error: str, *, code: int = CRASHED, log: str | None = None) -> dict:
    """Write `folder`/failed/rank-N.json, whole or not at all, and an event; -> what it says.

    {time, rank, node, error, code, secondary, log, line}: `secondary` if the rank only lost another one; what it is
    about to print begins at `line` of `log`. Nothing is written where there is no run folder yet, and a disk that is
    full does not hide the error.
    """
    log = log or _log()
    found = {"time": time.time(), "rank": rank, "node": events.NODE, "error": error, "code": code}
    found |= {"secondary": LOST_PEER.search(error) is not None, "log": log, "line": lines(log) + 1}
    with contextlib.suppress(OSError):
        if folder is not None and folder.is_dir():
            (folder / FOLDER).mkdir(exist_ok=True)
            partial = folder / FOLDER / f"rank-{rank}.partial"
            partial.write_text(json.dumps(found) + "\n")
            os.replace(partial, partial.with_suffix(".json"))
            if not found["secondary"] or rank == 0:
                events.note(folder, "failed", rank=rank, node=events.NODE, error=error)
    return found


def first(folder: Path) -> dict | None:
    """The earliest failure that is no other one's consequence, else the earliest; None where no rank failed."""
    return min(noted(folder), key=lambda each: (each["secondary"], each["time"]), default=None)


def noted(folder: Path) -> list[dict]:
    """What each rank that failed has said."""
    found = []
    for path in (folder / FOLDER).glob("rank-*.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(path.read_text()))
    return found


def lines(path: str | Path | None) -> int:
    """How many lines a log has by now; 0 where there is none."""
    with contextlib.suppress(OSError):
        return Path(path).read_bytes().count(b"\n") if path else 0
    return 0


def said(found: dict) -> str:
    """A failure in a line."""
    return f"rank {found['rank']} on {found['node']}: {found['error']}"


@final
@dataclass
class FailureLog:
    """Notes how what happens inside fails, for `slurm status` and for torchrun's summary; the error goes on.

    A rank that only lost another one raises LostPeer with that one's error; a full disk is an InputError. Bad input
    is no failure of the run in `folder` before `began`: the folder may be another's.
    """

    folder: Path
    rank: int
    ranks: int
    running: bool = False

    def began(self) -> None:
        """The folder is ours: forget how this rank, and ranks that there no longer are, failed before."""
        self.running = True
        for path in (self.folder / FOLDER).glob("rank-*.json"):
            number = int(path.stem.removeprefix("rank-"))
            if number == self.rank or (self.rank == 0 and number >= self.ranks):
                path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
            return
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            full = f"cannot write in {self.folder}: {error.strerror}; free some space and run again"
            self._tell(InputError(full))
            raise InputError(full) from error
        self._tell(error)

    def _tell(self, error: BaseException) -> None:
        bad_input = isinstance(error, InputError)
        line = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
        line = line.removeprefix("pipeline.errors.").removeprefix("torch.distributed.")
        folder = self.folder if self.running or not bad_input else None
        own = note(folder, self.rank, line, code=BAD_INPUT if bad_input else CRASHED)
        if own["secondary"] and self.ranks > 1:
            why = _cause(self.folder) if self.running else "it ended before the run began, and said why"
            raise LostPeer(f"{said(own | {'error': 'connection closed by peer'})}: {why}") from error
        if self.ranks > 1 and not bad_input:
            print(said(own), file=sys.stderr, flush=True)
        if (torchruns := os.environ.get("TORCHELASTIC_ERROR_FILE")) is not None:
            Path(torchruns).write_text(json.dumps({"message": said(own), "timestamp": int(own["time"])}))


def leave(main: Callable[[], int | None]) -> NoReturn:
    """`command`; but one rank of several is gone at once after a failure.

    Nothing is torn down: groups whose other members are gone can hang in their destructors (NCCL), and until the end
    of this process the others wait for it.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        command(main)
    try:
        command(main)
    except SystemExit as asked:
        if not asked.code:
            raise
        code = asked.code
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


def _cause(folder: Path) -> str:
    """What the rank that was lost has said; it may take it a moment."""
    until = time.monotonic() + PEER_WAIT_S
    while ((cause := first(folder)) is None or cause["secondary"]) and time.monotonic() < until:
        time.sleep(0.05)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        time.sleep(1.0)  # torchrun calls the rank that it sees ending first the cause
    return "it is gone without a word" if cause is None or cause["secondary"] else said(cause)


def _log() -> str | None:
    """The file that this process's stderr goes to, where it is one."""
    with contextlib.suppress(OSError):
        path = os.readlink("/proc/self/fd/2")
        return path if path.startswith("/") and not path.startswith("/dev/") else None
    return None
