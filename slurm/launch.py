"""From a command line to jobs in the queue: resolve, refuse, snapshot, submit, remember."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.errors import InputError
from slurm import events, local, script, show, snapshot, state
from slurm.job import Job
from slurm.request import Request, check, parameters
from slurm.state import RECORD, busy, record, status

ROOT = Path(__file__).parents[1]
SIGNALS_NEVER_COUNT = 10**6
"""submitit's max_num_timeout: with any smaller number it would give up on runs that are preempted often."""


@dataclass(frozen=True)
class Plan:
    """Jobs to submit: a run each. `root` holds the logs; it is the run itself unless there are `members`: a sweep's."""

    target: str
    overrides: tuple[str, ...]
    root: Path
    jobs: tuple[Job, ...]
    members: tuple[str, ...] = ()

    def unfinished(self) -> "Plan":
        """Without the runs that have ended well; modules always run."""
        left = [job for job in self.jobs if job.module != "train" or not _done(Path(job.run))]
        return replace(self, jobs=tuple(left))


def plan(target: str, overrides: Sequence[str], folder: str | None = None, ranks: int = 1) -> Plan:
    """What `target` means: a recipe (mae:in1k_b16), a sweep (mae:digits_mask_ratio) or a module with a main().

    Everything that a flag can get wrong, and all that `models.training.preflight.check` sees of each recipe in so many processes,
    raises InputError here, on the login node.
    """
    overrides = tuple(overrides)
    if ":" not in target:
        return _module(target, overrides, folder)
    if folder:
        raise InputError(f"--folder is for modules; the folder of a recipe is `-- --run.folder {folder}`")
    from models.config.catalogue import sweeps
    from models.config.resolve import resolve
    from models.config.sweep import changed, check_apart, members
    from models.records.run_folder import folder_of
    from models.training.preflight import check as check_ready

    if target not in [name for name, _ in sweeps()]:
        recipe = resolve(target, list(overrides))
        _check_runs_on(recipe)
        check_ready(recipe, ranks)
        root = folder_of(recipe).resolve()
        return Plan(target, overrides, root, (Job("train", [target, *overrides], str(root)),))
    names = [member.name for member in members(target)]
    recipes = [resolve(name, list(overrides)) for name in names]
    check_apart(recipes)
    root = folder_of(replace(recipes[0], name=target)).resolve()
    jobs = []
    for name, recipe in zip(names, recipes, strict=True):
        _check_runs_on(recipe)
        run = root / name.rpartition("/")[2]
        if not _done(run):
            check_ready(changed(recipe, {"run.folder": str(run)}), ranks)
        jobs.append(Job("train", [name, *overrides, f"--run.folder={run}"], str(run)))
    return Plan(target, overrides, root, tuple(jobs), tuple(job.run for job in jobs))


def submit(plan: Plan, request: Request, left_out: dict[str, object] | None = None) -> list[str]:
    """Hand the jobs to Slurm, or to this machine; -> their ids. With --dry-run nothing is written or submitted.

    left_out  what an earlier request wants of Slurm and this machine cannot grant: kept for a later one
    """
    check(request)
    if not request.dry_run:
        for job in plan.jobs:
            _check_free(Path(job.run))
    logs, afterok = plan.root / "slurm", dependency(request.after)
    code = _code(plan, request)
    before, after = (
        script.before(request, [Path(job.run) for job in plan.jobs], logs, code),
        script.after(request, plan.root if plan.members else None),
    )
    words = parameters(request, plan.root.name, afterok, before, after)
    if request.dry_run:
        here = request.cluster == "local"
        print(local.text(plan.jobs, request, logs, code) if here else _text(words, logs, len(plan.jobs)))
        return []
    if request.cluster == "slurm" and shutil.which("sbatch") is None:
        raise InputError("no sbatch here: submit on a login node of the cluster, or use --cluster local")
    logs.mkdir(parents=True, exist_ok=True)
    facts = {"target": plan.target, "overrides": plan.overrides, "request": asdict(request), "logs": str(logs)}
    facts |= {"cluster": request.cluster, "code": str(code.folder), "commit": code.commit, "root": str(plan.root)}
    facts |= {"left_out": left_out} if left_out else {}
    if plan.members:
        _write(plan.root / RECORD, facts | {"members": plan.members})
    if request.cluster == "local":
        return _here(plan, request, facts, code)
    ids = _sbatch(plan.jobs, words, logs)
    for job, number in zip(plan.jobs, ids, strict=True):
        _remember(Path(job.run), facts, number, "submitted", code.commit)
    return ids


def _here(plan: Plan, request: Request, facts: dict, code: snapshot.Snapshot) -> list[str]:
    """Start the jobs on this machine; those of a sweep wait for their turns, which `cancel` may take from them."""
    ids, sweep = [], bool(plan.members)
    with local.turns(plan.root) if sweep else nullcontext():
        turns = {job.run: f"{os.getpid()}_{number}" for number, job in enumerate(plan.jobs)} if sweep else {}
        for run, turn in turns.items():
            _remember(Path(run), facts, turn, "queued")
        for job, number in local.start(plan.jobs, request, Path(facts["logs"]), code, sweep):
            run = Path(job.run)
            _remember(run, facts, number, "submitted", code.commit)
            show.say(run, f"started    job {number}")
            said = events.of_job(events.read(run), turns.get(job.run, ""))
            if any(row["event"] == "cancelled" for row in said):
                show.cancel_here(status(run))  # while it started
            ids.append(number)
    return ids


def _remember(run: Path, facts: dict, job: str, event: str, commit: str | None = None) -> None:
    run.mkdir(parents=True, exist_ok=True)
    _write(run / RECORD, facts | {"job": job})
    events.note(run, event, job, code=None if commit is None else commit or "live")


def dependency(after: Sequence[str]) -> str | None:
    """afterok:IDS for runs that are still on their way; None where all are done.

    Raises InputError if one of them ended badly: its dependants would wait, or be cancelled, for nothing.
    """
    ids = []
    for name in after:
        if name.replace("_", "").isdigit():
            ids.append(name)
            continue
        for run in state.members(Path(name)):
            found = status(run)
            if found.state not in ("queued", "running", "done"):
                raise InputError(f"--after {name}: {run} is {found.state}; resubmit it first")
            if found.state == "done":
                continue
            if not found.job or record(run)["cluster"] == "local":
                raise InputError(f"--after {name}: {run} is {found.state} outside of Slurm, which cannot wait for it")
            ids.append(found.job)
    return "afterok:" + ":".join(ids) if ids else None


def _module(target: str, argv: tuple[str, ...], folder: str | None) -> Plan:
    import importlib.util

    if importlib.util.find_spec(target.partition(".")[0]) is None or importlib.util.find_spec(target) is None:
        raise InputError(
            f"{target} is neither a recipe (method:name; `python train.py` lists them) nor a module such as "
            "models.evaluate"
        )
    root = Path(folder or f"runs/{target.replace('.', '-')}").resolve()
    package = importlib.util.find_spec(target).submodule_search_locations is not None
    return Plan(target, argv, root, (Job(f"{target}.__main__" if package else target, list(argv), str(root)),))


def _check_runs_on(recipe) -> None:
    if recipe.run.stop_step is not None:
        raise InputError("run.stop_step would be taken for a preemption, and the job carry on; drop --run.stop-step")
    if recipe.run.fresh:
        raise InputError("run.fresh would refuse the run's own restarts; drop --run.fresh")


def _done(run: Path) -> bool:
    return (run / RECORD).exists() and "job" in record(run) and status(run).state == "done"


def _check_free(run: Path) -> None:
    if (job := busy(run)) is not None:
        name = show.short(run)
        raise InputError(f"{name} has job {job} already; `python -m slurm.submit cancel {name}` first, or wait for it")


def _code(plan: Plan, request: Request) -> snapshot.Snapshot:
    if request.code == "live":
        return snapshot.live(ROOT)
    if request.dry_run:
        return snapshot.Snapshot(plan.root.parent / ".code" / "HASH", "COMMIT")
    return snapshot.take(ROOT, plan.root.parent / ".code", without=(plan.root,))


def _sbatch(jobs: Sequence[Job], words: dict, logs: Path) -> list[str]:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    for name in [n for n in os.environ if n.startswith(("SLURM_", "SUBMITIT_")) and n != "SLURM_CONF"]:
        del os.environ[name]  # of a job that this one is submitted from
    executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=SIGNALS_NEVER_COUNT)
    executor.update_parameters(**words)
    try:
        return [job.job_id for job in executor.submit_array(jobs)]
    except (FailedJobError, FailedSubmissionError) as error:
        said = [line for line in str(error).splitlines() if "sbatch: error" in line] or str(error).splitlines()[-1:]
        raise InputError(f"{said[0].strip().removeprefix('sbatch: error: ')} (sbatch refused the job)") from error


def _text(words: dict, logs: Path, count: int) -> str:
    from submitit.slurm.slurm import _make_sbatch_string

    command = shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(logs)])
    return _make_sbatch_string(command, logs, map_count=count if count > 1 else None, **words)


def _write(path: Path, content: dict) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)
