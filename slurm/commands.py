"""Commands on submitted runs: status, logs, cancel, wait. They load neither torch nor numpy."""

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
from slurm import job_events, results, state, sweep_table
from slurm.state import RECORD, Status


def status(argv: Sequence[str]) -> int:
    """Print a line for each run, and for one that broke node, rank, error, log and line; by default all below runs/."""
    given = _parser("status", "*").parse_args(argv)
    there = {str(path.parent) for name in (RECORD, results.RECIPE) for path in Path("runs").glob(f"**/{name}")}
    found = statuses(given.runs or sorted(there))
    if not found:
        print(f"no run below {Path('runs').absolute()}; name run folders")
    width = max((len(str(each.run)) for each in found), default=0)
    for each in found:
        print(lines(each, width))
    return 0


def lines(found: Status, width: int = 0) -> str:
    """Format a run and its state; on a second line, the error of its latest crash or failure."""
    name = f"{found.run!s:{width}}"
    return f"{name}  {line(found)}" + (f"\n{'':{len(name)}}  {latest_error(found)}" if found.error else "")


def line(found: Status) -> str:
    """Format the state, job, step, nodes and restarts of a run, and its scores once it is over."""
    step, entry = results.last_step(found.run), found.entry
    words = [f"{found.state:9s}", f"job {found.job}" if found.job else "no job"]
    words += [f"step {step}"] if step else []
    words += [entry.nodes] if entry and entry.nodes and found.state == "running" else []
    words += [f"({entry.reason})"] if entry and entry.reason not in ("", "None") and found.state != "running" else []
    words += [f"{found.restarts} restart{'s' * (found.restarts > 1)}"] if found.restarts else []
    words += format_scores(latest_scores(results.rows(found.run))) if found.over else []
    return "  ".join(words)


def print_state(run: Path, words: str | None = None) -> None:
    """Print a run's state, or `words`; a terminal that is gone is no error, as the members of a sweep outlive it."""
    with suppress(OSError):
        print(f"{short(run)}  {words}" if words else lines(state.status(short(run))), flush=True)


def latest_error(found: Status) -> str:
    """Format the first error of the latest crash or failure."""
    row = found.error
    assert row is not None  # who asks has seen that there is one
    ago = f"{row['event']} {_ago(time.time() - row['time'])} ago"
    if row["event"] == "node failed":
        return f"{ago}: {row['nodes']}"
    if "error" not in row:
        return f"{ago}, exit code {row.get('code')}, no rank recorded why; read {record_logs(found.run)}"
    where = f"  {row['log']}:{row['line']}" if "log" in row else ""
    return f"{ago} on {row['node']}, rank {row['rank']}: {row['error']}{where}"


def logs(argv: Sequence[str]) -> int:
    """Print the last lines of a rank's output, or follow it (-f)."""
    parser = _parser("logs", 1)
    parser.add_argument("-f", "--follow", action="store_true")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("-n", "--lines", type=int, default=50)
    given = parser.parse_args(argv)
    facts = state.read_record(Path(given.runs[0]))
    if "members" in facts:
        raise InputError(f"{given.runs[0]} is a sweep; name one of {', '.join(facts['members'])}")
    files = [Path(facts["logs"], f"{facts['job']}_{given.rank}_log.{end}") for end in ("out", "err")]
    there = [str(path) for path in files if path.exists()]
    if not there and not given.follow:
        raise InputError(f"no log yet: {files[0]} (job {facts['job']} is {state.status(Path(given.runs[0])).state})")
    follow = ["--follow=name", "--retry"] if given.follow else []
    with suppress(KeyboardInterrupt):
        paths = [str(path) for path in files] if given.follow else there
        return subprocess.run(["tail", "-q", "-n", str(given.lines), *follow, *paths]).returncode
    return 0


def cancel(argv: Sequence[str]) -> int:
    """End jobs for good; a run saves first, if it can within Slurm's KillWait. Returns 1 if one has no job to end."""
    given = _parser("cancel", "+").parse_args(argv)
    every = sorted(statuses(given.runs), key=lambda each: each.state != "queued")  # else waiting ones would start
    for found in every:
        if found.over:
            print(f"{found.run}  is {found.state} already")
        elif not found.job:
            print(f"{found.run}  has no job: train.py was started there; end that process")
        else:
            local = state.read_record(found.run)["cluster"] == "local"
            began = cancel_local(found) if local else _scancel(found)
            print(f"{found.run}  {'saves and stops' if began else 'cancelled while it waited'}")
    return int(any(not each.over and not each.job for each in every))


def cancel_local(found: Status) -> bool:
    """End a job of this machine, or cancel it while it waits for its turn; return whether it had begun."""
    while not found.over:
        job_events.append(found.run, "cancelled", found.job)
        if found.state == "running":
            with suppress(ProcessLookupError):
                os.kill(int(found.job), signal.SIGTERM)
            return True
        found = state.status(found.run)  # it may have begun meanwhile
    return False


def _scancel(found: Status) -> bool:
    """End a job of Slurm; return whether it had begun."""
    done = subprocess.run(["scancel", found.job], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{found.run}: {done.stderr.strip().removeprefix('scancel: error: ')} (scancel)")
    if found.state == "queued":  # its batch script, which records the end, has not begun, and Slurm forgets the job
        job_events.append(found.run, "cancelled", found.job)
    return found.state == "running"


def wait(argv: Sequence[str]) -> int:
    """Print each run that is over, and return once all are; exit code 0 if all are done."""
    parser = _parser("wait", "+")
    parser.add_argument("--poll", type=float, default=10.0, help="seconds between two queries")
    given = parser.parse_args(argv)
    printed, silence = set(), ""
    while True:
        try:
            found, silence = statuses(given.runs), ""
        except Unavailable as error:  # a controller that restarts; its jobs still run
            if silence != str(error):
                print(f"{error}; still waiting", file=sys.stderr)
            found, silence = [], str(error)
        for each in found:
            if each.over and each.run not in printed:
                print(lines(each), flush=True)
                printed.add(each.run)
        if found and len(printed) == len(found):
            break
        time.sleep(given.poll)
    return print_tables(given.runs)


def print_tables(names: Sequence[str]) -> int:
    """Print the tables of sweeps that are over, and how many members were cancelled; return 0 if all runs are done."""
    for root in map(Path, names):
        if (runs := state.members(root)) == [root]:
            continue
        print(sweep_table.write(root).read_text(), end="")
        if cancelled := sum(each.state == "cancelled" for each in state.statuses(runs)):
            again = f"`python -m slurm.submit resubmit {short(root)}` carries on"
            print(f"{cancelled} of {len(runs)} runs were cancelled; {again}")
    return int(any(each.state != "done" for each in statuses(names)))


def statuses(names: Sequence[str]) -> list[Status]:
    """Determine the state of runs, and of the members of sweeps, with one query to Slurm for all."""
    runs = []
    for name in names:
        runs += map(short, state.members(Path(name)))
    return state.statuses([*dict.fromkeys(runs)])


def record_logs(run: Path) -> str:
    """Return the pattern of the logs of a run's job."""
    facts = state.read_record(run)
    return f"{facts['logs']}/{facts['job']}_*"


def short(run: Path) -> Path:
    """Return a path relative to the current folder where it lies below it."""
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
