"""Submit training to a Slurm cluster, or run it on this machine in the same way.

    python -m slurm.submit RECIPE --nodes 8 --gpus 8 --hours 24 [-- OVERRIDES OF train.py]
    python -m slurm.submit SWEEP --parallel 8 ...           a sweep, and what follows its members: arrays, then a table
    python -m slurm.submit RECIPE --after runs/mae ...      once that run is done
    python -m slurm.submit MODULE ...                       another module's main(), such as models.evaluate
    python -m slurm.submit doctor --nodes 4 --gpus 8        checks each node, and the exchange between all GPUs
    python -m slurm.submit status [RUN ...]   logs RUN [-f] [--rank R]   cancel RUN ...   wait RUN ...   resubmit RUN
    python -m slurm.submit RECIPE --help                    every flag

The same command again carries on. --dry-run prints what would be submitted; --cluster local needs no Slurm.
"""

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import flags as typed
from pipeline.errors import InputError, command

if TYPE_CHECKING:
    from slurm.launch import Plan
    from slurm.request import Request


DOCTOR_HOURS = 0.5
"""Time limit of a doctor's job where none is asked for: a short job starts sooner."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb, or submit a recipe, a sweep or a module; return the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    from slurm import commands

    verbs = {
        "status": commands.status, "logs": commands.logs, "cancel": commands.cancel, "wait": commands.wait,
        "resubmit": resubmit,
    }  # fmt: skip
    if given[0] in verbs:
        return verbs[given[0]](given[1:])
    return submit(given[0], given[1:])


def submit(target: str, argv: Sequence[str]) -> int:
    """Submit a recipe, a sweep or a module; return the exit code."""
    from slurm import launch

    flags, overrides = split(argv)
    request = parse(flags, target)
    if target == "doctor":
        target, overrides, request = doctor_job(overrides, request)
    planned = launch.plan(target, overrides, request.folder, request.ranks, request.seeds, request.follow)
    return submit_plan(planned, request)


def doctor_job(overrides: list[str], request: "Request") -> tuple[str, list[str], "Request"]:
    """Return the module, its flags and the request of a doctor's job: started once, and no node ends the others."""
    folder = request.folder or "runs/doctor"
    out = [] if any(flag.partition("=")[0] == "--out" for flag in overrides) else ["--out", str(Path(folder).resolve())]
    srun = request.srun_args if request.cluster == "local" else ("--kill-on-bad-exit=0", *request.srun_args)
    hours = DOCTOR_HOURS if request.hours == type(request)().hours else request.hours
    request = replace(request, folder=folder, tries=0, srun_args=srun, hours=hours)
    return "models.doctor", [*overrides, *out], request


def resubmit(argv: Sequence[str]) -> int:
    """Submit a run again with its recorded request, which flags change, and the code as it is now."""
    from slurm import launch
    from slurm.request import without_slurm_flags
    from slurm.state import read_record

    if not argv or argv[0].startswith("-"):
        raise InputError("resubmit wants a run folder first, as in `python -m slurm.submit resubmit runs/mae`")
    facts = read_record(Path(argv[0]))
    if "members" not in facts and facts["root"] != str(Path(argv[0]).resolve()):
        raise InputError(f"{argv[0]} is a member of a sweep; resubmit {facts['root']}: what is done is not done again")
    flags, overrides = split(argv[1:])
    before, target, left_out = earlier_request(facts["request"] | facts.get("left_out", {})), f"resubmit {argv[0]}", {}
    if parse(flags, target, before).cluster == "local":
        before, left_out = without_slurm_flags(before)
    request = parse(flags, target, before)
    if left_out:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in left_out)
        print(f"without {names}: Slurm's own, and kept for a later `resubmit --cluster slurm`")
    overrides = [*facts["overrides"], *overrides]
    planned = launch.plan(facts["target"], overrides, request.folder, request.ranks, request.seeds, request.follow)
    return submit_plan(planned, request, left_out)


def submit_plan(plan: "Plan", request: "Request", left_out: dict[str, object] | None = None) -> int:
    """Submit a plan and print what was submitted; for a sweep that is over, or has run here, print its table, too.

    left_out  Slurm's flags of an earlier request, which this machine does not support

    Returns the exit code.
    """
    from slurm import commands, launch

    left, local, live = plan.unfinished(), request.cluster == "local", {}
    if plan.chain and not local and not request.dry_run:
        left, live = launch.split_live(left)
    for job in [job for job in plan.jobs if job not in left.jobs]:
        commands.print_state(Path(job.run))
    if plan.members and left.jobs and local and not request.dry_run:
        wide = f"{len(left.jobs)} of {len(plan.members)} runs, {request.parallel or 1} at a time (--parallel)"
        print(f"{wide}; Ctrl-C lets those that run save and stop, the same command carries on", flush=True)
    if not (left.jobs or request.dry_run):
        launch.keep_facts(plan)
    ids = launch.submit(left, request, left_out, live) if left.jobs else []
    for job, number in zip(left.jobs, () if local else ids, strict=False):
        commands.print_state(Path(job.run), f"submitted  job {number}")
    if plan.members and not request.dry_run and (local or not (left.jobs or live)):
        return commands.print_tables([str(plan.root)])
    if ids or live:
        root = commands.short(plan.root)
        print(f"`python -m slurm.submit wait {root}` returns when it is over; there are also status, logs and cancel")
    return 0


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line at `--` into the flags of the job and those of train.py."""
    flags = list(argv)
    return (flags[: flags.index("--")], flags[flags.index("--") + 1 :]) if "--" in flags else (flags, [])


def parse(flags: Sequence[str], target: str, default: "Request | None" = None) -> "Request":
    """Parse the flags of the job. Raises InputError for an unknown flag, a wrong value, or a flag of train.py.

    default  the request that the flags change
    """
    from models.config.catalogue import description
    from slurm.request import Request

    for flag in flags:
        if flag.startswith("--") and "." in flag.partition("=")[0]:
            raise InputError(f"{flag} is a flag of train.py; put those behind `--`")
    prog, about = f"python -m slurm.submit {target}", description(target)
    return typed.parse(Request, default=default or Request(), args=list(flags), prog=prog, description=about)


def earlier_request(found: dict) -> "Request":
    """Restore the request of an earlier submission from JSON, without --after, which that submission has waited for."""
    from slurm.request import Request

    known = {field.name for field in fields(Request)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items() if k in known}
    return replace(Request(**values), after=(), dry_run=False)


if __name__ == "__main__":
    command(main)
