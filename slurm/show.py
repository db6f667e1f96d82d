"""Looking after runs: status, logs, cancel, wait. None of this imports torch."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from models.records.metrics import format_scores, latest_scores
from pipeline.errors import InputError, Unavailable
from slurm import events, results, state, sweep
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
        print(lines(each, width))
    return 0


def lines(found: Status, width: int = 0) -> str:
    """A run and where it stands; below, the error of its latest break."""
    name = f"{found.run!s:{width}}"
    return f"{name}  {line(found)}" + (f"\n{'':{len(name)}}  {broken(found)}" if found.error else "")


def line(found: Status) -> str:
    """State, job, step, nodes and restarts of a run, and its scores once it is over."""
    step, live = results.last_step(found.run), found.live
    words = [f"{found.state:9s}", f"job {found.job}" if found.job else "no job"]
    words += [f"step {step}"] if step else []
    words += [live.nodes] if live and live.nodes and found.state == "running" else []
    words += [f"({live.reason})"] if live and live.reason not in ("", "None") and found.state != "running" else []
    words += [f"{found.restarts} restart{'s' * (found.restarts > 1)}"] if found.restarts else []
    words += format_scores(latest_scores(results.rows(found.run))) if found.over else []
    return "  ".join(words)


def say(run: Path, words: str | None = None) -> None:
    """Where a run stands, on a terminal that may be gone: other runs wait for their turn."""
    with suppress(OSError):
        print(f"{short(run)}  {words}" if words else lines(state.status(short(run))), flush=True)


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
    asked = _parser("cancel", "+").parse_args(argv)
    every = sorted(statuses(asked.runs), key=lambda each: each.state != "queued")  # nobody moves up meanwhile
    for found in every:
        if found.over:
            print(f"{found.run}  is {found.state} already")
        elif not found.job:
            print(f"{found.run}  has no job: train.py was started there; end that process")
        else:
            here = state.record(found.run)["cluster"] == "local"
            began = cancel_here(found) if here else _scancel(found)
            print(f"{found.run}  {'is told to save and stop' if began else 'cancelled while it waited'}")
    return int(any(not each.over and not each.job for each in every))


def cancel_here(found: Status) -> bool:
    """End a job of this machine, or take its turn from it; -> whether it had begun."""
    while not found.over:
        events.note(found.run, "cancelled", found.job)
        if found.state == "running":
            with suppress(ProcessLookupError):
                os.kill(int(found.job), signal.SIGTERM)
            return True
        found = state.status(found.run)  # its turn may have come meanwhile
    return False


def _scancel(found: Status) -> bool:
    done = subprocess.run(["scancel", found.job], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{found.run}: {done.stderr.strip().removeprefix('scancel: error: ')} (scancel)")
    if found.state == "queued":  # no batch script will say so, and Slurm forgets
        events.note(found.run, "cancelled", found.job)
    return found.state == "running"


def wait(argv: Sequence[str]) -> int:
    """Say which is over, and return once all are; exit code 0 if all are done."""
    parser = _parser("wait", "+")
    parser.add_argument("--poll", type=float, default=10.0, help="seconds between two looks")
    asked = parser.parse_args(argv)
    told, silence = set(), ""
    while True:
        try:
            found, silence = statuses(asked.runs), ""
        except Unavailable as error:  # a controller that restarts: its jobs go on meanwhile
            if silence != str(error):
                print(f"{error}; still waiting", file=sys.stderr)
            found, silence = [], str(error)
        for each in found:
            if each.over and each.run not in told:
                print(lines(each), flush=True)
                told.add(each.run)
        if found and len(told) == len(found):
            break
        time.sleep(asked.poll)
    return concluded(asked.runs)


def concluded(names: Sequence[str]) -> int:
    """The tables of sweeps that are over, and how many of their members were cancelled; -> 0 if all runs are done."""
    for root in map(Path, names):
        if (runs := state.members(root)) == [root]:
            continue
        print(sweep.write(root).read_text(), end="")
        if cancelled := sum(each.state == "cancelled" for each in state.statuses(runs)):
            again = f"`python -m slurm.submit resubmit {short(root)}` carries on"
            print(f"{cancelled} of {len(runs)} runs were cancelled; {again}")
    return int(any(each.state != "done" for each in statuses(names)))


def statuses(names: Sequence[str]) -> list[Status]:
    """The state of runs, the members of sweeps among them; Slurm is asked once for all."""
    runs = []
    for name in names:
        runs += map(short, state.members(Path(name)))
    return state.statuses([*dict.fromkeys(runs)])


def record_logs(run: Path) -> str:
    """Pattern of the logs of a run's job."""
    facts = state.record(run)
    return f"{facts['logs']}/{facts['job']}_*"


def short(run: Path) -> Path:
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
