"""Plan and submit jobs: resolve the target, check it, snapshot the code, submit, and record what was submitted."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from models.config.chain import FILE as CHAIN
from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole
from pipeline.text import did_you_mean
from slurm import batch_script, chain_jobs, commands, job_events, local, snapshot, state
from slurm.chain_jobs import Array
from slurm.job import Job
from slurm.request import Request, check, executor_parameters
from slurm.state import RECORD, active_job, read_record, status

if TYPE_CHECKING:
    from models.config.chain import Chain
    from models.config.recipe import Recipe

ROOT = Path(__file__).parents[1]
VERBS = "status", "logs", "cancel", "wait", "resubmit"
"""What `python -m slurm.submit` may be asked beside jobs."""
UNLIMITED_TIMEOUTS = 10**6
"""submitit's max_num_timeout, so large that submitit does not give up on runs that are preempted often."""


@final
@dataclass(frozen=True)
class Plan:
    """Jobs to submit, one for each run.

    root     folder that holds the logs: the run itself, or the sweep's
    members  run folders of a sweep's members, and of what follows them; () for one run
    more     run folders of which the recipe asks for more than was done: an extension, or a later early stop
    chain    what the table of a chain needs to know (models.config.chain.facts); None for another sweep and for one run
    """

    target: str
    overrides: tuple[str, ...]
    root: Path
    jobs: tuple[Job, ...]
    members: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    chain: dict | None = None

    def unfinished(self) -> "Plan":
        """Return the plan without the runs that are done; the job of a module is kept, unless it is of a chain."""
        left = (
            job
            for job in self.jobs
            if job.run in self.more or (job.module != "train" and self.chain is None) or not _done(Path(job.run))
        )
        return replace(self, jobs=tuple(left))


def plan(
    target: str,
    overrides: Sequence[str],
    folder: str | None = None,
    ranks: int = 1,
    seeds: Sequence[int] = (),
    follow: bool = True,
) -> Plan:
    """Plan a target: a recipe (mae:in1k_b16), a sweep (mae:digits_mask_ratio) or a module with a main().

    ranks   number of processes in which each recipe is to run
    seeds   of a chain (models.config.chain), each of which its members and what follows them have once; (): 0
    follow  plan what follows the members of a chain, too

    Raises InputError here, on the login node, for wrong flags and for what `models.training.preflight.check` finds.
    """
    overrides = tuple(overrides)
    if ":" not in target:
        return _module(target, overrides, folder)
    if folder:
        raise InputError(f"--folder is for modules; the folder of a recipe is `-- --run.folder {folder}`")
    from models.config.catalogue import sweeps
    from models.config.chain import chain_of
    from models.config.resolve import resolve
    from models.config.sweep import changed, check_apart, members
    from models.pretrained.as_begun import with_encoder
    from models.records.run_folder import folder_of, wants_more
    from models.training.preflight import check as check_ready

    is_sweep = target in [name for name, _ in sweeps()]
    chain = chain_of(target) if is_sweep else None
    if chain is not None:
        return _chain(target, overrides, chain, ranks, seeds or (0,), follow)
    if seeds or not follow:
        flag = "--seeds" if seeds else "--no-follow"
        raise InputError(f"{flag} is for a sweep that says what follows its members, and {target} does not; drop it")
    if not is_sweep:
        recipe, _ = with_encoder(resolve(target, list(overrides)))
        _check_restarts(recipe)
        check_ready(recipe, ranks)
        root = folder_of(recipe).resolve()
        more = (str(root),) if wants_more(root, recipe) else ()
        return Plan(target, overrides, root, (Job("train", [target, *overrides], str(root)),), more=more)
    names = [member.name for member in members(target)]
    recipes = [with_encoder(resolve(name, list(overrides)))[0] for name in names]
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


def _chain(
    target: str, overrides: tuple[str, ...], chain: "Chain", ranks: int, seeds: Sequence[int], follow: bool
) -> Plan:
    """Plan the members of a sweep and what follows them, for each seed; every kind of run is checked once."""
    from models.config.resolve import resolve
    from models.config.sweep import changed, check_apart
    from models.pretrained.as_begun import with_encoder
    from models.records.run_folder import check_same_recipe, folder_of, wants_more
    from models.training.preflight import check as check_ready

    resolved: dict[tuple[str, ...], Recipe] = {}
    checked = set()

    def recipe_of(argv: Sequence[str]) -> "Recipe":
        key = tuple(word for word in argv if not word.startswith(("--run.start=", "--run.folder=")))
        if key not in resolved:
            resolved[key] = with_encoder(resolve(argv[0], list(argv[1:])))[0]
        return resolved[key]

    for_members, _ = chain_jobs.shared_out(overrides, chain.stages)
    recipes = [recipe_of([f"{target}/{member}", *for_members]) for member in range(len(chain.rows))]
    check_apart(recipes)
    root = folder_of(replace(recipes[0], name=target)).resolve()
    found = chain_jobs.submitted_facts(chain, target, overrides, root, seeds)
    jobs = chain_jobs.chain_jobs(chain, target, overrides, root, seeds, recipe_of)
    earlier = [seed for seed in found["seeds"] if seed not in seeds]
    others = chain_jobs.chain_jobs(chain, target, overrides, root, earlier, recipe_of)
    jobs, more = [job for job in jobs if follow or job.after is None], []
    for job in (*jobs, *others):
        if job.module != "train":
            chain_jobs.check_evaluator(job)
            continue
        own = {"run.folder": job.run} | ({} if job.after is None else {"run.start": job.after})
        recipe = changed(recipe_of(job.argv), own)
        _check_restarts(recipe)
        check_same_recipe(Path(job.run), recipe)  # done or not: one table has runs of one command
        if wants_more(Path(job.run), recipe):
            more.append(job.run)
        if job in others or (job.run not in more and _done(Path(job.run))):
            continue
        kind = json.dumps(asdict(replace(changed(recipe, dict.fromkeys(own)), name="")))
        if kind not in checked:
            check_ready(recipe, ranks)
            checked.add(kind)
    if longer := [run for run in more if run in {job.after for job in jobs}]:
        raise InputError(
            f"{longer[0]}: what follows it in the chain has begun with the weights that it has now; to train it for "
            "longer choose another --run.folder"
        )
    return Plan(target, overrides, root, tuple(jobs), tuple(job.run for job in jobs), tuple(more), found)


def split_live(plan: Plan) -> tuple[Plan, dict[str, str]]:
    """Split the jobs of a chain that Slurm has already off a plan: return the plan of the others, and those' ids by run
    folder."""
    there = [Path(job.run) for job in plan.jobs if "job" in read_record(Path(job.run), absent={})]
    live = {str(found.run): found.job for found in state.statuses(there) if not found.over}
    return replace(plan, jobs=tuple(job for job in plan.jobs if job.run not in live)), live


def submit(
    plan: Plan, request: Request, left_out: dict[str, object] | None = None, live: Mapping[str, str] | None = None
) -> list[str]:
    """Submit the jobs to Slurm, or start them on this machine, and return their ids.

    With --dry-run the script is printed, and nothing is written or submitted.

    left_out  Slurm's flags of an earlier request, which this machine does not support: recorded for a later request
    live      of a chain on Slurm, ids of the jobs that wait or run already (`split_live`)
    """
    check(request)
    if not request.dry_run:
        for job in plan.jobs:
            _check_free(Path(job.run))
    logs, afterok = plan.root / "slurm", dependency(request.after)
    code = _code(plan, request)
    if request.dry_run and request.cluster == "local":
        print(local.text(plan.jobs, request, logs, code))
        return []
    if request.dry_run:
        _print_scripts(plan, request, logs, code, afterok)
        return []
    if request.cluster == "slurm" and shutil.which("sbatch") is None:
        raise InputError("no sbatch here: submit on a login node of the cluster, or use --cluster local")
    logs.mkdir(parents=True, exist_ok=True)
    facts = {"target": plan.target, "overrides": plan.overrides, "request": asdict(request), "logs": str(logs)}
    facts |= {"cluster": request.cluster, "code": str(code.folder), "commit": code.commit, "root": str(plan.root)}
    facts |= {"left_out": left_out} if left_out else {}
    if plan.members:
        _write(plan.root / RECORD, facts | {"members": _every_member(plan)})
    keep_facts(plan)
    if request.cluster == "local":
        return _submit_locally(plan, request, facts, code)
    ids, known = {}, live or {}
    for array in _arrays(plan, known):
        waits = array.dependency({**known, **ids}) or afterok
        parameters = _parameters(plan, request, array, logs, code, waits)
        for job, number in zip(array.jobs, _sbatch(array.jobs, parameters, logs), strict=True):
            _record(Path(job.run), facts, number, "submitted", code.commit)
            ids[job.run] = number
    return [ids[job.run] for job in plan.jobs]


def keep_facts(plan: Plan) -> None:
    """Write what the table of a chain needs to know beside its runs."""
    if plan.chain:
        plan.root.mkdir(parents=True, exist_ok=True)
        _write(plan.root / CHAIN, plan.chain)


def _arrays(plan: Plan, live: Mapping[str, str]) -> list[Array]:
    return chain_jobs.arrays(plan.jobs, live) if plan.chain else [Array("", plan.jobs)]


def _parameters(
    plan: Plan, request: Request, array: Array, logs: Path, code: snapshot.Snapshot, waits: str | None
) -> dict:
    """Return the keyword arguments of submitit's executor for one array.

    waits  the dependency, as sbatch writes it
    """
    own = chain_jobs.alone(request) if array.jobs[0].module == chain_jobs.ALONE and array.stage else request
    before = batch_script.before(own, [Path(job.run) for job in array.jobs], logs, code)
    after = batch_script.after(own, plan.root if plan.members else None)
    name = f"{plan.root.name}-{array.stage}" if array.stage else plan.root.name
    return executor_parameters(own, name, waits, before, after)


def _print_scripts(plan: Plan, request: Request, logs: Path, code: snapshot.Snapshot, afterok: str | None) -> None:
    """Print the batch script of each array; what follows the members waits for MEMBERS, an id that sbatch will give."""
    found = _arrays(plan, {})
    ids = {job.run: "MEMBERS" if len(array.jobs) == 1 else f"MEMBERS_{n}" for array in found[:1]
           for n, job in enumerate(array.jobs)}  # fmt: skip
    for number, array in enumerate(found, 1):
        if len(found) > 1:
            title = f"{array.stage or 'members'}, {len(array.jobs)} of {len(plan.jobs)} jobs"
            print(f"# {number} of {len(found)} submissions: {title}")
        parameters = _parameters(plan, request, array, logs, code, array.dependency(ids) or afterok)
        print(_script(parameters, logs, len(array.jobs)))


def _every_member(plan: Plan) -> tuple[str, ...]:
    """Return the members of a plan, and of a chain those of earlier submissions, of other seeds say."""
    before = read_record(plan.root, absent={}).get("members", ()) if plan.chain else ()
    return tuple(dict.fromkeys((*before, *plan.members)))


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
    package = found.submodule_search_locations is not None
    _check_program(target, package)
    root = Path(folder or f"runs/{target.replace('.', '-')}").resolve()
    return Plan(target, argv, root, (Job(f"{target}.__main__" if package else target, list(argv), str(root)),))


def _check_program(target: str, package: bool) -> None:
    """Raise InputError for a module without a main, such as one of Python's own by a misspelt name."""
    program = importlib.util.find_spec(f"{target}.__main__" if package else target)
    source = Path(program.origin or "") if program else Path()
    if source.suffix != ".py" or not re.search(r"^def main\b|\bimport .*\bmain\b", source.read_text("utf-8"), re.M):
        raise InputError(f"{target} is a module without a main, which no job can run{did_you_mean(target, VERBS)}")


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
