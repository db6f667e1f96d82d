"""Check this machine stage by stage, print one table, and write doctor.json and doctor.md after each stage.

Exit codes: 0 nothing that a run needs is wrong, 1 something is, 2 wrong flags. `--only machine views` runs these stages
alone; there are machine, attention, correctness, views, throughput, back_ends, end_to_end and ranks.
"""

import os
import shutil
import signal
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from models.doctor.cluster import exchange
from models.doctor.findings import PAGE, Findings, summary
from models.doctor.listing import chosen
from models.doctor.supervise import Ended, run_stage
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.store.atomic_write import check_writable
from pipeline.store.beton import open_beton


@dataclass(frozen=True)
class Options:
    """What to check, and where to write what was found."""

    only: tuple[str, ...] = ()
    """Stages to run, by name; all when absent."""
    quick: bool = False
    """Measure less: about half the time."""
    data: str | None = None
    """A .beton to measure with, such as the one to train on; photographs are made when absent."""
    out: str = "runs/doctor"
    """Folder for doctor.json, doctor.md and the stages' logs; in a job of several nodes, a folder a node is made in
    it."""


def check(options: Options) -> None:
    """Raise InputError for a file that is no .beton, and a folder that cannot be written; the folder is made."""
    if options.data is not None:
        open_beton(Path(options.data))
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: the folder cannot be made ({error.strerror}); choose another one") from error
    check_writable(out / PAGE)


def examine(options: Options, exchanged: Ended | None = None) -> Findings:
    """Run the chosen stages one after another, print a line for each, and write what is known after each.

    exchanged  what came of the exchange between the processes of a job, where there are several
    """
    folder, data = Path(options.out).resolve(), Path(options.data) if options.data else None
    findings = Findings(folder, shown(options))
    shutil.rmtree(folder / "scratch", ignore_errors=True)  # of an earlier doctor
    if exchanged:
        findings.add("job", exchanged)
    for stage in chosen(options.only):
        print(f"{stage.name} ...", file=sys.stderr, flush=True)
        ended = run_stage(stage, folder, quick=options.quick, data=data)
        findings.add(stage.name, ended)
        print(summary(stage.name, ended), file=sys.stderr, flush=True)
    return findings


def shown(options: Options) -> str:
    """Write the command that the options stand for."""
    words = ["python -m models.doctor"]
    words += ["--only", *options.only] if options.only else []
    words += ["--quick"] if options.quick else []
    words += ["--data", options.data] if options.data else []
    return " ".join(words)


def main() -> int:
    """Check, print the table, and return 1 if a row is wrong, else 0.

    Of several processes of a job, as Slurm starts one for each GPU, all sum a tensor, and then the first of each node
    checks the whole node.
    """
    options = parse(Options, description=__doc__, prog="python -m models.doctor")
    chosen(options.only)
    exchanged = exchange()
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return 0
    if exchanged:
        options = replace(options, out=str(Path(options.out) / socket.gethostname()))
    check(options)
    signal.signal(signal.SIGTERM, _ended)  # so that the stage that runs is ended, too
    findings = examine(options, exchanged)
    print(findings.machine())
    print(findings.table(), end="")
    print(f"{findings.verdict()}; {Path(options.out) / PAGE}")
    return 1 if findings.wrong else 0


def _ended(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    command(main)
