"""Run a stage in a process of its own, and end it with all that it has started once its time is up.

rows, where, seconds = run_stage(listed, folder, quick=False, data=None)
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from models.doctor.listing import Listed
from models.doctor.stage import Row

GRACE_S = 10
"""Seconds after its deadline in which a stage may print where its threads are, before it is killed."""
RANKS = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"
"""What a launcher tells its processes: a stage is not one of them, and neither is what it starts."""
ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    """What came of a stage: its rows, the machine as it describes it ({} if it did not get so far), its seconds."""

    rows: list[Row]
    where: dict[str, Any]
    seconds: float


CHILD = "-m", "models.doctor.child"


def run_stage(stage: Listed, folder: Path, *, quick: bool, data: Path | None, child: Sequence[str] = CHILD) -> Ended:
    """Run a stage to its end, or to its deadline; what it printed is in `folder`/logs/STAGE.txt.

    child  what Python runs, for tests

    A stage that ended otherwise than by returning adds a row, which says how and what to read.
    """
    began, log, file = time.monotonic(), folder / "logs" / f"{stage.name}.txt", folder / "rows" / f"{stage.name}.jsonl"
    for path in (log, file):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    command = [sys.executable, *child, stage.name, str(file), str(folder / "scratch")]
    command += ["1" if quick else "0", str(data.resolve()) if data else ""]
    own = outside_of_a_job(os.environ) | own_path() | {"SHOTCRETE_DEADLINE_S": str(stage.deadline_s)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=own, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(stage.deadline_s + GRACE_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
    where, rows = read_rows(file)
    seconds = time.monotonic() - began
    if code != 0:
        rows.append(Row(stage.name, "wrong", _how(code, seconds, stage.deadline_s), f"read {log}{_last(log)}"))
    return Ended(rows, where, seconds)


def outside_of_a_job(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what a launcher, or Slurm, tells the processes of a job."""
    return {
        name: value
        for name, value in environment.items()
        if name not in RANKS and (not name.startswith(("SLURM_", "SUBMITIT_", "PMI")) or name == "SLURM_CONF")
    }


def own_path() -> dict[str, str]:
    """Return a PYTHONPATH by which processes import this checkout, wherever they run."""
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}


def end_group(child: subprocess.Popen) -> None:
    """Kill a process and every one that it has started and left, and wait for it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def read_rows(file: Path) -> tuple[dict[str, Any], list[Row]]:
    """Read the rows that a stage has written so far; a line that was cut off as it was killed is left out."""
    lines = []
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
    return {k: v for line in lines if "what" not in line for k, v in line.items()}, [
        Row(**line) for line in lines if "what" in line
    ]


def _how(code: int | None, seconds: float, deadline_s: int) -> str:
    if code is None or seconds >= deadline_s:
        return f"not over after {deadline_s} s, and ended"
    if code < 0:
        return f"ended by {signal.Signals(-code).name} after {seconds:.0f} s"
    return f"ended with code {code} after {seconds:.0f} s"


def _last(log: Path) -> str:
    """Quote the last line that says what was raised, if there is one."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ""
