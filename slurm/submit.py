"""Train on a cluster, or as if there were one.

    python -m slurm.submit RECIPE --nodes 8 --gpus 8 --hours 24 [-- OVERRIDES OF train.py]
    python -m slurm.submit SWEEP --parallel 8 ...           a sweep: one array, then a table
    python -m slurm.submit RECIPE --after runs/mae ...      once that run has ended well
    python -m slurm.submit MODULE ...                       another module's main(), such as models.evaluate
    python -m slurm.submit status [RUN ...]   logs RUN [-f] [--rank R]   cancel RUN ...   wait RUN ...   resubmit RUN
    python -m slurm.submit RECIPE --help                    every flag

The same command again carries on with the run. --dry-run prints what would be done; --cluster local needs no Slurm.
"""

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from pipeline import flags as typed
from pipeline.errors import InputError, command


def main(argv: Sequence[str] | None = None) -> int:
    """One verb, or a recipe to submit; -> exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    from slurm import show

    verbs = {"status": show.status, "logs": show.logs, "cancel": show.cancel, "wait": show.wait, "resubmit": resubmit}
    if given[0] in verbs:
        return verbs[given[0]](given[1:])
    return submit(given[0], given[1:])


def submit(target: str, argv: Sequence[str]) -> int:
    """Submit a recipe, a sweep or a module."""
    from slurm import launch

    flags, overrides = split(argv)
    request = parse(flags, target)
    return told(launch.plan(target, overrides, request.folder, request.ranks), request)


def resubmit(argv: Sequence[str]) -> int:
    """Submit a run again as it was submitted, with the code as it is now; flags change the request."""
    from slurm import launch
    from slurm.request import slurms_own
    from slurm.state import record

    if not argv or argv[0].startswith("-"):
        raise InputError("resubmit wants a run folder first, as in `python -m slurm.submit resubmit runs/mae`")
    facts = record(Path(argv[0]))
    if "members" not in facts and facts["root"] != str(Path(argv[0]).resolve()):
        raise InputError(f"{argv[0]} is a member of a sweep; resubmit {facts['root']}: what is done is not done again")
    flags, overrides = split(argv[1:])
    before, target, left_out = earlier(facts["request"] | facts.get("left_out", {})), f"resubmit {argv[0]}", {}
    if parse(flags, target, before).cluster == "local":
        before, left_out = slurms_own(before)
    request = parse(flags, target, before)
    if left_out:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in left_out)
        print(f"without {names}: Slurm's own, and kept for a later `resubmit --cluster slurm`")
    overrides = [*facts["overrides"], *overrides]
    return told(launch.plan(facts["target"], overrides, request.folder, request.ranks), request, left_out)


def told(plan, request, left_out: dict[str, object] | None = None) -> int:
    """Submit and say what was submitted; of a sweep that is over, or has run here, show the table, too."""
    from slurm import launch, show

    left, here = plan.unfinished(), request.cluster == "local"
    for job in [job for job in plan.jobs if job not in left.jobs]:
        show.say(Path(job.run))
    if plan.members and left.jobs and here and not request.dry_run:
        wide = f"{len(left.jobs)} of {len(plan.members)} runs, {request.parallel or 1} at a time (--parallel)"
        print(f"{wide}; Ctrl-C lets those that run save and stop, the same command carries on", flush=True)
    ids = launch.submit(left, request, left_out) if left.jobs else []
    for job, number in zip(left.jobs, () if here else ids, strict=False):
        show.say(Path(job.run), f"submitted  job {number}")
    if plan.members and not request.dry_run and (here or not left.jobs):
        return show.concluded([str(plan.root)])
    if ids:
        root = show.short(plan.root)
        print(f"`python -m slurm.submit wait {root}` returns when it is over; status, logs and cancel look after it")
    return 0


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags of the job, and those of train.py: what stands after `--`."""
    flags = list(argv)
    return (flags[: flags.index("--")], flags[flags.index("--") + 1 :]) if "--" in flags else (flags, [])


def parse(flags: Sequence[str], target: str, default=None):
    """Typed flags of the job. Raises InputError for a flag that is unknown or belongs behind `--`, or a wrong value."""
    from models.config.catalogue import description
    from slurm.request import Request

    for flag in flags:
        if flag.startswith("--") and "." in flag.partition("=")[0]:
            raise InputError(f"{flag} is a flag of train.py; put those behind `--`")
    prog, said = f"python -m slurm.submit {target}", description(target)
    return typed.parse(Request, default=default or Request(), args=list(flags), prog=prog, description=said)


def earlier(found: dict):
    """The request of an earlier submission, from JSON. What it waited for has been, so that is dropped."""
    from slurm.request import Request

    known = {field.name for field in fields(Request)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items() if k in known}
    return replace(Request(**values), after=(), dry_run=False)


if __name__ == "__main__":
    command(main)
