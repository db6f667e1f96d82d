"""Jobs of a chain (models.config.chain): members of a sweep for each seed, what follows each, and Slurm's arrays."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from models.config.chain import FILE, OWN, Chain, Stage, facts, folder_name
from models.records.json_file import read_object
from models.records.run_folder import MAY_CHANGE
from pipeline.errors import InputError
from slurm.job import Job
from slurm.request import Request

if TYPE_CHECKING:
    from models.config.recipe import Recipe

RecipeOf = Callable[[Sequence[str]], "Recipe"]
ALONE = "models.evaluate.__main__"
"""Module of a job that is one process, whatever the request asks for: an evaluator."""


def chain_jobs(
    chain: Chain, sweep: str, overrides: Sequence[str], root: Path, seeds: Sequence[int], recipe_of: "RecipeOf"
) -> list[Job]:
    """List the jobs of a chain, member by member, each member followed by its stages.

    recipe_of  resolves a recipe's name with flags

    A stage's folder lies in its member's. Raises InputError for flags that cannot be shared out, and if the folder
    holds the runs of other rows.
    """
    for_members, for_stages = shared_out(overrides, chain.stages)
    _check_rows(root, sweep, chain)
    jobs = []
    for seed in seeds:
        for member in range(len(chain.rows)):
            argv = [f"{sweep}/{member}", *for_members]
            argv += seed_flags(recipe_of(argv), seed)
            run = root / folder_name(member, seed)
            jobs.append(Job("train", [*argv, f"--run.folder={run}"], str(run)))
            for stage in chain.stages:
                target, flags = stage.of(member), [*stage.flags, *for_stages[stage.name]]
                if target not in (None, OWN):
                    jobs.append(_stage_job(stage, target, flags, run, seed, recipe_of))
    return jobs


def _stage_job(stage: Stage, target: str, flags: list[str], run: Path, seed: int, recipe_of: "RecipeOf") -> Job:
    folder, after = run / stage.name, str(run)
    if ":" not in target:
        return Job(ALONE, [target, str(run), *flags], str(folder), after, stage.name)
    argv = [target, *flags]
    argv += seed_flags(recipe_of(argv), seed)
    return Job("train", [*argv, f"--run.start={run}", f"--run.folder={folder}"], str(folder), after, stage.name)


def seed_flags(recipe: "Recipe", seed: int) -> list[str]:
    """Return the flags that give a recipe another seed, and with it other labels where its split was drawn by seed 0.

    seed_flags(finetune.digits(), 1)  # ["--run.seed=1", "--data.split=5-per-class-1"]
    """
    from pipeline.labels.splits import NAME  # brings in numpy

    if seed == 0:
        return []
    split = NAME.fullmatch(recipe.data.split or "")
    drawn = [f"--data.split={recipe.data.split}-{seed}"] if split and split["seed"] is None else []
    return [f"--run.seed={seed}", *drawn]


def shared_out(overrides: Sequence[str], stages: Sequence[Stage]) -> tuple[list[str], dict[str, list[str]]]:
    """Share a command line's flags out: return those of the members, and those of each stage by its name.

    --finetune.optim.epochs 20 is a flag of the stage of this name, or of each whose recipe is of this method. Flags
    that say where and how a run computes (data.root, run.device_images: models.records.run_folder.MAY_CHANGE) are the
    members' and every recipe's; all others are the members' alone.

    Raises InputError for run.seed, which `--seeds` sets for all of them.
    """
    members: list[str] = []
    after: dict[str, list[str]] = {stage.name: [] for stage in stages}
    for first, *values in _flags(overrides):
        head, _, rest = first.removeprefix("--").partition(".")
        named = [stage for stage in stages if head in {stage.name, *(t.partition(":")[0] for t in stage.targets)}]
        if _field(first) == "run.seed":
            raise InputError("--run.seed is of one run; the seeds of a chain are --seeds 0 1 2, before the --")
        for stage in named:
            after[stage.name] += [f"--{rest}", *values]
        if named:
            continue
        members += [first, *values]
        if _field(first) in MAY_CHANGE - {"run.folder"}:
            for stage in stages:
                after[stage.name] += [first, *values] if any(":" in target for target in stage.targets) else []
    return members, after


def submitted_facts(chain: Chain, sweep: str, overrides: Sequence[str], root: Path, seeds: Sequence[int]) -> dict:
    """Return what the table needs to know (models.config.chain.facts): the seeds of earlier submissions, too, and the
    flags that change what is computed."""
    before = read_object(root / FILE, "restore it, or move the folder", absent={}).get("seeds", [])
    changing = [word for flag in _flags(overrides) if _field(flag[0]) not in MAY_CHANGE for word in flag]
    return facts(sweep, chain, sorted({*before, *seeds}), changing)


def _check_rows(root: Path, sweep: str, chain: Chain) -> None:
    """Raise InputError if the folder holds runs of other rows: they have numbers, which move where a row is added."""
    before = read_object(root / FILE, "restore it, or move the folder", absent={})
    if before and (before.get("sweep"), before.get("rows")) != (sweep, list(chain.rows)):
        raise InputError(
            f"{root} holds the rows {before.get('rows')} of {before.get('sweep')}, which now has {list(chain.rows)}; "
            "move it, or choose another --run.folder"
        )


def _flags(words: Sequence[str]) -> list[list[str]]:
    """Group a command line: each flag with the values behind it."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups


def _field(flag: str) -> str:
    """--run.no-shard=x -> run.shard."""
    name = flag.removeprefix("--").partition("=")[0].replace("-", "_")
    return re.sub(r"^no_|(?<=\.)no_", "", name)


@final
@dataclass(frozen=True)
class Array:
    """Jobs that Slurm gets in one submission: of the members, or of one stage.

    waits  each waits for the job of its member
    """

    stage: str
    jobs: tuple[Job, ...]
    waits: bool = False

    def dependency(self, ids: Mapping[str, str]) -> str | None:
        """Return what sbatch calls the dependency; None where the jobs wait for nothing of the chain.

        ids  of the jobs that were submitted before, by run folder
        """
        if not self.waits:
            return None
        member = ids[self.jobs[0].after or ""]
        return f"afterok:{member}" if len(self.jobs) == 1 else f"aftercorr:{member.partition('_')[0]}"


def arrays(jobs: Sequence[Job], live: Collection[str] = ()) -> list[Array]:
    """Put jobs into few arrays, in the order in which they can be submitted.

    live  run folders of members that have a job already

    There is one of the members; of each stage one of the jobs that wait for that array, place by place, and one of
    those whose member is done. Where a stage does not follow every member of the array, and where a member has a job
    already, each job is an array of its own.
    """
    members = [job for job in jobs if job.after is None]
    place = {job.run: number for number, job in enumerate(members)}
    found = [Array("", tuple(members))] if members else []
    for stage in dict.fromkeys(job.stage for job in jobs if job.after):
        held = [job for job in jobs if job.after and job.stage == stage]
        waiting = sorted((job for job in held if job.after in place), key=lambda job: place[job.after or ""])
        one_each = len(waiting) < len(members)
        found += [Array(stage, (job,), waits=True) for job in waiting if one_each]
        found += [Array(stage, tuple(waiting), waits=True)] if waiting and not one_each else []
        found += [Array(stage, (job,), waits=True) for job in held if job.after in live]
        ready = tuple(job for job in held if job.after not in place and job.after not in live)
        found += [Array(stage, ready)] if ready else []
    return found


def check_evaluator(job: Job) -> None:
    """Raise InputError if an evaluator's flags are wrong."""
    from models.evaluate.__main__ import evaluator_of

    name, _, *flags = job.argv
    evaluator_of(name, flags)


def alone(request: Request) -> Request:
    """Return the request of an evaluator's job: one process, on one GPU where the request has any."""
    return replace(request, nodes=1, gpus=min(1, request.gpus), tasks=None)
