"""Looking after runs: status, logs, cancel, wait. None of this imports torch."""

import argparse
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from models.training.scores import said, scores
from pipeline.errors import InputError
from slurm import results, state, sweep
from slurm.state import RECORD, Status


def status(argv: Sequence[str]) -> int:
    """One line a run, and where it broke: node, rank, error, log and line. All below runs/ if none is named."""
    asked = _parser("status", "*").parse_args(argv)
    there = {str(path.parent) for name in (RECORD, results.RECIPE) for path in Path("runs").glob(f"**/{name}")}
    found = statuses(asked.runs or sorted(there))
    if not found:
        print(f"no run below {Path('runs').absolute()}; name run folders")
    width = max((len(str(each.run)) for each in found), default=0)
    for each in found:
        print(f"{each.run!s:{width}}  {line(each)}")
        if each.error:
            print(f"{'':{width}}  {broken(each)}")
    return 0


def line(found: Status) -> str:
    """State, job, step, nodes and restarts of a run, and its scores once it is over."""
    step, live = results.last_step(found.run), found.live
    words = [f"{found.state:9s}", f"job {found.job}" if found.job else "no job"]
    words += [f"step {step}"] if step else []
    words += [live.nodes] if live and live.nodes and found.state == "running" else []
    words += [f"({live.reason})"] if live and live.reason not in ("", "None") and found.state != "running" else []
    words += [f"{found.restarts} restart{'s' * (found.restarts > 1)}"] if found.restarts else []
    words += said(scores(results.rows(found.run))) if found.over else []
    return "  ".join(words)


def say(run: Path, words: str | None = None) -> None:
    """Where a run stands, on a terminal that may be gone: other runs wait for their turn."""
    with suppress(OSError):
        print(f"{_short(run)}  {words or line(state.status(run))}", flush=True)


def broken(found: Status) -> str:
    """The first error of the latest break, in words."""
    row = found.error
    ago = f"{row['event']} {_ago(time.time() - row['time'])} ago"
    if row["event"] == "node failed":
        return f"{ago}: {row['nodes']}"
    if "error" not in row:
        return f"{ago}, exit code {row.get('code')}, no rank said why; read {record_logs(found.run)}"
    where = f"  {row['log']}:{row['line']}" if "log" in row else ""
    return f"{ago} on {row['node']}, rank {row['rank']}: {row['error']}{where}"


def logs(argv: Sequence[str]) -> int:
    """The last lines of a rank's output, or all that comes (-f)."""
    parser = _parser("logs", 1)
    parser.add_argument("-f", "--follow", action="store_true")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("-n", "--lines", type=int, default=50)
    asked = parser.parse_args(argv)
    facts = state.record(Path(asked.runs[0]))
    if "members" in facts:
        raise InputError(f"{asked.runs[0]} is a sweep; name one of {', '.join(facts['members'])}")
    files = [Path(facts["logs"], f"{facts['job']}_{asked.rank}_log.{end}") for end in ("out", "err")]
    there = [str(path) for path in files if path.exists()]
    if not there and not asked.follow:
        raise InputError(f"no log yet: {files[0]} (job {facts['job']} is {state.status(Path(asked.runs[0])).state})")
    follow = ["--follow=name", "--retry"] if asked.follow else []
    with suppress(KeyboardInterrupt):
        paths = [str(path) for path in files] if asked.follow else there
        return subprocess.run(["tail", "-q", "-n", str(asked.lines), *follow, *paths]).returncode
    return 0


def cancel(argv: Sequence[str]) -> int:
    """End jobs for good; each saves first, if it is quick (Slurm's KillWait)."""
    for found in statuses(_parser("cancel", "+").parse_args(argv).runs):
        if found.over:
            print(f"{found.run} is {found.state} already")
        elif state.record(found.run)["cluster"] == "local":
            os.kill(int(found.job), signal.SIGTERM)
        else:
            subprocess.run(["scancel", found.job], check=True)
    return 0


def wait(argv: Sequence[str]) -> int:
    """Say which is over, and return once all are; exit code 0 if all are done."""
    parser = _parser("wait", "+")
    parser.add_argument("--poll", type=float, default=10.0, help="seconds between two looks")
    asked = parser.parse_args(argv)
    found, told = statuses(asked.runs), set()
    while True:
        for each in found:
            if each.over and each.run not in told:
                print(f"{each.run}  {line(each)}", flush=True)
                told.add(each.run)
        if len(told) == len(found):
            break
        time.sleep(asked.poll)
        found = statuses(asked.runs)
    for root in map(Path, asked.runs):
        if state.members(root) != [root]:
            print(sweep.write(root).read_text(), end="")
    return int(any(each.state != "done" for each in found))


def statuses(names: Sequence[str]) -> list[Status]:
    """The state of runs, the members of sweeps among them; Slurm is asked once for all."""
    runs = []
    for name in names:
        runs += map(_short, state.members(Path(name)))
    runs = [*dict.fromkeys(runs)]
    slurm = any(state.record(run)["cluster"] == "slurm" for run in runs if (run / RECORD).exists())
    live = state.ask() if slurm else {}
    return [state.status(run, live) for run in runs]


def record_logs(run: Path) -> str:
    """Pattern of the logs of a run's job."""
    facts = state.record(run)
    return f"{facts['logs']}/{facts['job']}_*"


def _short(run: Path) -> Path:
    path = run.absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _ago(seconds: float) -> str:
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {name}{'s' * (count > 1)}"
    return f"{max(0, seconds):.0f} s"


def _parser(verb: str, runs: str | int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m slurm.submit {verb}")
    parser.add_argument("runs", nargs=runs, metavar="RUN", help="run folder, or the folder of a sweep")
    return parser
