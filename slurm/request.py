"""What is asked of the cluster: typed flags, and the words that sbatch knows for them."""

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from tyro.conf import UseAppendAction

from pipeline.errors import InputError

Repeated = Annotated[tuple[str, ...], UseAppendAction]
HERE = "gpus", "tasks", "hours", "folder", "signal_delay", "parallel", "cluster", "code", "dry_run"
"""What --cluster local does, too; the rest is Slurm's."""


@dataclass(frozen=True)
class Request:
    """Nodes, time and how to behave when things go wrong."""

    nodes: int = 1
    gpus: int = 1
    """Per node; one process each. 0 on a cluster without GPUs."""
    tasks: int | None = None
    """Processes per node where gpus is 0."""
    cpus: int | None = None
    """Per process, for decoding; the partition's default when absent."""
    mem: str | None = None
    """Per node, as sbatch writes it: 200G."""
    hours: float = 24
    """Of one stretch: a run that needs longer is requeued, and carries on, as often as it takes. With --cluster local
    it saves and stops there; the same command carries on."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    """Nodes to keep away from."""
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
    """Seconds before the time limit at which the run is told to save: more than its longest step and a save."""
    tries: int = 3
    """Starts after a crash that led to no new checkpoint, before the job gives up."""
    pause: float = 5
    """Seconds before starting again after a crash; doubles with each such try, to a minute at most."""
    parallel: int | None = None
    """Members of a sweep that run at the same time; all that there is room for when absent, locally one."""
    cluster: Literal["slurm", "local"] = "slurm"
    """local: the same on this machine, without Slurm; six starts in all if it crashes. Refuses Slurm's own flags."""
    code: Literal["snapshot", "live"] = "snapshot"
    """snapshot: the job runs the code as it is now, whatever is edited later; live: as it lies there when it starts."""
    dry_run: bool = False
    """Print what would be handed to sbatch, or run here, and submit nothing."""

    @property
    def tasks_per_node(self) -> int:
        """One process per GPU; without GPUs, as many as asked for."""
        return self.gpus or self.tasks or 1

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.nodes * self.tasks_per_node


def check(request: Request) -> None:
    """Raise InputError for the first wish that no cluster can grant."""
    for name in ("nodes", "cpus", "tasks", "parallel"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} is {value}, expected at least 1")
    if request.gpus < 0:
        raise InputError(f"--gpus is {request.gpus}, expected 0 or more")
    if request.gpus and request.tasks not in (None, request.gpus):
        raise InputError(f"--tasks is {request.tasks} beside --gpus {request.gpus}; one process per GPU: drop --tasks")
    if request.hours <= 0:
        raise InputError(f"--hours is {request.hours:g}, expected above 0")
    if not 0 < request.signal_delay < request.hours * 3600:
        raise InputError(f"--signal-delay is {request.signal_delay} s, expected within --hours {request.hours:g}")
    if request.tries < 0 or request.pause < 0:
        raise InputError(f"--tries is {request.tries} and --pause {request.pause:g}, expected 0 or more")
    for option in request.sbatch:
        if "=" not in option:
            raise InputError(f"--sbatch {option} has no '='; write it as key=value, without dashes")
    for field in fields(request) if request.cluster == "local" else ():
        if field.name not in HERE and getattr(request, field.name) != field.default:
            flag = field.name.replace("_", "-")
            raise InputError(f"--{flag} is Slurm's, and would do nothing with --cluster local; drop it")


def slurms_own(request: Request) -> tuple[Request, dict[str, object]]:
    """A request without what --cluster local refuses, and that: field -> value."""
    own = {f.name: f.default for f in fields(request) if f.name not in HERE and getattr(request, f.name) != f.default}
    return replace(request, **own), {name: getattr(request, name) for name in own}


def parameters(request: Request, name: str, dependency: str | None, setup: list[str], teardown: list[str]) -> dict:
    """Keyword arguments of submitit.SlurmExecutor.update_parameters.

    Always on: requeueing; logs that grow over restarts (submitit's own default); a job that waits for one that failed
    is cancelled instead of waiting for ever; a step ends as a whole when one rank fails.
    """
    srun = ["--kill-on-bad-exit=1", *request.srun_args]
    if request.cpus:
        srun.insert(1, f"--cpus-per-task={request.cpus}")  # since 22.05 srun does not take it from sbatch
    extra = {"requeue": True, "kill-on-invalid-dep": "yes", "mem": request.mem}
    extra |= dict(option.split("=", 1) for option in request.sbatch)
    asked = {
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
    return {key: value for key, value in asked.items() if value is not None}
