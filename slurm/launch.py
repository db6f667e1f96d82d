"""Plan and submit jobs: resolve the target, check it, snapshot the code, submit, and record what was submitted."""

import importlib.util
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole
from slurm import batch_script, commands, job_events, local, snapshot, state
from slurm.job import Job
from slurm.request import Request, check, executor_parameters
from slurm.state import RECORD, active_job, read_record, status

if TYPE_CHECKING:
    from models.config.recipe import Recipe

ROOT = Path(__file__).parents[1]
UNLIMITED_TIMEOUTS = 10**6
"""submitit's max_num_timeout, so large that submitit does not give up on runs that are preempted often."""


@final
@dataclass(frozen=True)
class Plan:
    """Jobs to submit, one for each run.

    root     folder that holds the logs: the run itself, or the sweep's
    members  run folders of a sweep's members; () for one run
    more     run folders of which the recipe asks for more than was done: an extension, or a later early stop
    """

    target: str
    overrides: tuple[str, ...]
    root: Path
    jobs: tuple[Job, ...]
    members: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def unfinished(self) -> "Plan":
        """Return the plan without the runs that are done; the job of a module is kept."""
        left = [job for job in self.jobs if job.module != "train" or job.run in self.more or not _done(Path(job.run))]
        return replace(self, jobs=tuple(left))


def plan(target: str, overrides: Sequence[str], folder: str | None = None, ranks: int = 1) -> Plan:
    """Plan a target: a recipe (mae:in1k_b16), a sweep (mae:digits_mask_ratio) or a module with a main().

    ranks  number of processes in which each recipe is to run

    Raises InputError here, on the login node, for wrong flags and for what `models.training.preflight.check` finds.
    """
    overrides = tuple(overrides)
    if ":" not in target:
        return _module(target, overrides, folder)
    if folder:
        raise InputError(f"--folder is for modules; the folder of a recipe is `-- --run.folder {folder}`")
    from models.config.catalogue import sweeps
    from models.config.resolve import resolve
    from models.config.sweep import changed, check_apart, members
    from models.pretrained.architecture import with_encoder_of_start
    from models.records.run_folder import folder_of, wants_more
    from models.training.preflight import check as check_ready

    if target not in [name for name, _ in sweeps()]:
        recipe, _ = with_encoder_of_start(resolve(target, list(overrides)))
        _check_restarts(recipe)
        check_ready(recipe, ranks)
        root = folder_of(recipe).resolve()
        more = (str(root),) if wants_more(root, recipe) else ()
        return Plan(target, overrides, root, (Job("train", [target, *overrides], str(root)),), more=more)
    names = [member.name for member in members(target)]
    recipes = [with_encoder_of_start(resolve(name, list(overrides)))[0] for name in names]
    check_apart(recipes)
    root = folder_of(replace(recipes[0], name=target)).resolve()
    jobs, more = [], []
    for name, recipe in zip(names, recipes, strict=True):
        _check_restarts(recipe)
        run = root / name.rpartition("/")[2]
        if wants_more(run, recipe):
            more.append(str(run))
        if str(run) in more or not _done(run):
            check_ready(changed(recipe, {"run.folder": str(run)}), ranks)
        jobs.append(Job("train", [name, *overrides, f"--run.folder={run}"], str(run)))
    return Plan(target, overrides, root, tuple(jobs), tuple(job.run for job in jobs), tuple(more))


def submit(plan: Plan, request: Request, left_out: dict[str, object] | None = None) -> list[str]:
    """Submit the jobs to Slurm, or start them on this machine, and return their ids.

    With --dry-run the script is printed, and nothing is written or submitted.

    left_out  Slurm's flags of an earlier request, which this machine does not support: recorded for a later request
    """
    check(request)
    if not request.dry_run:
        for job in plan.jobs:
            _check_free(Path(job.run))
    logs, afterok = plan.root / "slurm", dependency(request.after)
    code = _code(plan, request)
    before = batch_script.before(request, [Path(job.run) for job in plan.jobs], logs, code)
    after = batch_script.after(request, plan.root if plan.members else None)
    parameters = executor_parameters(request, plan.root.name, afterok, before, after)
    if request.dry_run:
        on_slurm = request.cluster == "slurm"
        print(_script(parameters, logs, len(plan.jobs)) if on_slurm else local.text(plan.jobs, request, logs, code))
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
        return _submit_locally(plan, request, facts, code)
    ids = _sbatch(plan.jobs, parameters, logs)
    for job, number in zip(plan.jobs, ids, strict=True):
        _record(Path(job.run), facts, number, "submitted", code.commit)
    return ids


def _submit_locally(plan: Plan, request: Request, facts: dict, code: snapshot.Snapshot) -> list[str]:
    """Start the jobs on this machine; those of a sweep wait for their turns, meanwhile `cancel` may end them."""
    ids, sweep = [], bool(plan.members)
    with local.sweep_lock(plan.root) if sweep else nullcontext():
        turns = {job.run: f"{os.getpid()}_{number}" for number, job in enumerate(plan.jobs)} if sweep else {}
        for run, turn in turns.items():
            _record(Path(run), facts, turn, "queued")
        for job, number in local.start(plan.jobs, request, Path(facts["logs"]), code, sweep):
            run = Path(job.run)
            _record(run, facts, number, "submitted", code.commit)
            commands.print_state(run, f"started    job {number}")
            rows = job_events.of_job(job_events.read(run), turns.get(job.run, ""))
            if any(row["event"] == "cancelled" for row in rows):
                commands.cancel_local(status(run))  # it was cancelled while it started
            ids.append(number)
    return ids


def _record(run: Path, facts: dict, job: str, event: str, commit: str | None = None) -> None:
    """Write what was submitted into the run folder, and append the event."""
    run.mkdir(parents=True, exist_ok=True)
    _write(run / RECORD, facts | {"job": job})
    job_events.append(run, event, job, code=None if commit is None else commit or "live")


def dependency(after: Sequence[str]) -> str | None:
    """Return afterok:IDS for the runs of --after that are not over; None where all are done.

    Raises InputError if one of them has failed or was cancelled: Slurm would cancel the new job.
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
            if not found.job or read_record(run)["cluster"] == "local":
                raise InputError(f"--after {name}: {run} is {found.state} outside of Slurm, which cannot wait for it")
            ids.append(found.job)
    return "afterok:" + ":".join(ids) if ids else None


def _module(target: str, argv: tuple[str, ...], folder: str | None) -> Plan:
    """Plan the job of a module. Raises InputError where there is none of this name."""
    top = importlib.util.find_spec(target.partition(".")[0])
    found = None if top is None else importlib.util.find_spec(target)
    if found is None:
        raise InputError(
            f"{target} is neither a recipe (method:name; `python train.py` lists them) nor a module such as "
            "models.evaluate"
        )
    root = Path(folder or f"runs/{target.replace('.', '-')}").resolve()
    package = found.submodule_search_locations is not None
    return Plan(target, argv, root, (Job(f"{target}.__main__" if package else target, list(argv), str(root)),))


def _check_restarts(recipe: "Recipe") -> None:
    """Raise InputError for flags of one start, with which a job that is started again would not end."""
    if recipe.run.stop_step is not None:
        raise InputError("run.stop_step would be taken for a preemption, and the job carry on; drop --run.stop-step")
    if recipe.run.fresh:
        raise InputError("run.fresh would refuse the run's own restarts; drop --run.fresh")


def _done(run: Path) -> bool:
    return (run / RECORD).exists() and "job" in read_record(run) and status(run).state == "done"


def _check_free(run: Path) -> None:
    """Raise InputError if a run has a job that waits or runs."""
    if (job := active_job(run)) is not None:
        name = commands.short(run)
        raise InputError(f"{name} has job {job} already; `python -m slurm.submit cancel {name}` first, or wait for it")


def _code(plan: Plan, request: Request) -> snapshot.Snapshot:
    if request.code == "live":
        return snapshot.live(ROOT)
    if request.dry_run:
        return snapshot.Snapshot(plan.root.parent / ".code" / "HASH", "COMMIT")
    return snapshot.take(ROOT, plan.root.parent / ".code", without=(plan.root,))


def _sbatch(jobs: Sequence[Job], parameters: dict, logs: Path) -> list[str]:
    """Submit the jobs as one array and return their ids. Raises InputError with sbatch's own message if it refuses."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    for name in [n for n in os.environ if n.startswith(("SLURM_", "SUBMITIT_")) and n != "SLURM_CONF"]:
        del os.environ[name]  # sbatch would take those of a job from which this one is submitted
    executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=UNLIMITED_TIMEOUTS)
    executor.update_parameters(**parameters)
    try:
        return [job.job_id for job in executor.submit_array(jobs)]
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [line for line in str(error).splitlines() if "sbatch: error" in line] or str(error).splitlines()[-1:]
        raise InputError(f"{lines[0].strip().removeprefix('sbatch: error: ')} (sbatch refused the job)") from error


def _script(parameters: dict, logs: Path, count: int) -> str:
    """Return the batch script that submitit would submit."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(logs)])
    return _make_sbatch_string(command, logs, map_count=count if count > 1 else None, **parameters)


def _write(path: Path, content: dict) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")
