"""Request of a job: typed flags for the cluster, and their names in submitit and sbatch."""

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, final

from tyro.conf import UseAppendAction

from pipeline.errors import InputError
from pipeline.flags import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, check_bounds

Repeated = Annotated[tuple[str, ...], UseAppendAction]
LOCAL_FLAGS = (
    *("gpus", "tasks", "hours", "folder", "signal_delay", "tries", "pause", "parallel", "seeds", "follow", "cluster"),
    *("code", "dry_run"),
)
"""Flags that --cluster local supports, too; the others are Slurm's."""


@final
@dataclass(frozen=True)
class Request:
    """Nodes, time, and what to do after a crash, a preemption or the end."""

    nodes: Annotated[int, AT_LEAST_1] = 1
    gpus: Annotated[int, NOT_NEGATIVE] = 1
    """Per node; one process each. 0 on a cluster without GPUs."""
    tasks: Annotated[int | None, AT_LEAST_1] = None
    """Processes per node where gpus is 0."""
    cpus: Annotated[int | None, AT_LEAST_1] = None
    """Per process, for decoding; the partition's default when absent."""
    mem: str | None = None
    """Per node, as sbatch writes it: 200G."""
    hours: Annotated[float, POSITIVE] = 24
    """Time limit of one start: a run that needs longer saves, is requeued and resumes, as often as it takes. With
    --cluster local it saves and stops; the same command resumes it."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    """Nodes to avoid."""
    after: Repeated = ()
    """Run folder or job id that has to end well first; repeat the flag for more."""
    setup: Repeated = ()
    """Shell line to run before, such as 'module load cuda'; repeat the flag for more."""
    sbatch: Repeated = ()
    """Any other option of sbatch, as key=value; repeat the flag for more."""
    srun_args: Repeated = ()
    """Any option of srun, as in --srun-args=--cpu-bind=none; repeat the flag for more."""
    folder: str | None = None
    """Run folder of a module; that of a recipe is run.folder."""
    notify: str | None = None
    """Shell command when it is over; reads $RUN and $EVENT: done, failed or cancelled."""
    signal_delay: int = 120
    """Seconds before the time limit at which the run gets the signal to save: more than its longest step and a save."""
    tries: Annotated[int, NOT_NEGATIVE] = 3
    """Starts after a crash that led to no new checkpoint, before the job gives up."""
    pause: Annotated[float, NOT_NEGATIVE] = 5
    """Seconds before starting again after a crash; doubles with each such try, to a minute at most."""
    parallel: Annotated[int | None, AT_LEAST_1] = None
    """Members of a sweep that run at the same time; when absent as many as Slurm starts, locally one. Of a chain on
    Slurm: in each of its arrays."""
    seeds: tuple[Annotated[int, NOT_NEGATIVE], ...] = ()
    """Seeds of a chain, a sweep that says what follows its members: all runs once for each; seed 0 when absent. Runs of
    other seeds are kept, and the table has them all."""
    follow: bool = True
    """Run what follows the members of a chain, too."""
    cluster: Literal["slurm", "local"] = "slurm"
    """local: on this machine, without Slurm, but with its restarts after a crash. Slurm's own flags are refused."""
    code: Literal["snapshot", "live"] = "snapshot"
    """snapshot: the job runs a copy of the code as it is now; live: the checkout as it is when the job starts."""
    dry_run: bool = False
    """Print what would be handed to sbatch, or run here, and submit nothing."""

    @property
    def tasks_per_node(self) -> int:
        """Return the processes of a node: one per GPU; without GPUs, --tasks."""
        return self.gpus or self.tasks or 1

    @property
    def ranks(self) -> int:
        """Return the number of processes on all nodes."""
        return self.nodes * self.tasks_per_node


def check(request: Request) -> None:
    """Raise InputError for the first flag that is wrong, alone or together with others."""
    check_bounds(request, "--")
    if request.gpus and request.tasks not in (None, request.gpus):
        raise InputError(f"--tasks is {request.tasks} beside --gpus {request.gpus}; one process per GPU: drop --tasks")
    if not 0 < request.signal_delay < request.hours * 3600:
        raise InputError(f"--signal-delay is {request.signal_delay} s, expected within --hours {request.hours:g}")
    for option in request.sbatch:
        if "=" not in option:
            raise InputError(f"--sbatch {option} has no '='; write it as key=value, without dashes")
    for field in fields(request) if request.cluster == "local" else ():
        if field.name not in LOCAL_FLAGS and getattr(request, field.name) != field.default:
            flag = field.name.replace("_", "-")
            raise InputError(f"--{flag} is Slurm's, and would do nothing with --cluster local; drop it")


def without_slurm_flags(request: Request) -> tuple[Request, dict[str, object]]:
    """Return a request without the flags that --cluster local refuses, and those by name."""
    own = {field.name: field.default for field in fields(request) if field.name not in LOCAL_FLAGS}
    own = {name: default for name, default in own.items() if getattr(request, name) != default}
    return replace(request, **own), {name: getattr(request, name) for name in own}


def executor_parameters(
    request: Request, name: str, dependency: str | None, setup: list[str], teardown: list[str]
) -> dict:
    """Return the keyword arguments of submitit.SlurmExecutor.update_parameters.

    Set in each job: requeueing; logs that grow over restarts (submitit's default); a job that waits for one that failed
    is cancelled; srun ends all ranks when one fails.
    """
    srun = ["--kill-on-bad-exit=1", *request.srun_args]
    if request.cpus:
        srun.insert(1, f"--cpus-per-task={request.cpus}")  # since 22.05 srun does not take it from sbatch
    extra = {"requeue": True, "kill-on-invalid-dep": "yes", "mem": request.mem}
    extra |= dict(option.split("=", 1) for option in request.sbatch)
    found = {
        "job_name": name,
        "partition": request.partition,
        "time": math.ceil(request.hours * 60),
        "nodes": request.nodes,
        "ntasks_per_node": request.tasks_per_node,
        "gpus_per_node": request.gpus or None,
        "cpus_per_task": request.cpus,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "exclude": request.exclude,
        "dependency": dependency,
        "signal_delay_s": request.signal_delay,
        "array_parallelism": request.parallel,
        "srun_args": srun,
        "setup": setup,
        "teardown": teardown,
        "additional_parameters": {key: value for key, value in extra.items() if value is not None},
    }
    return {key: value for key, value in found.items() if value is not None}
