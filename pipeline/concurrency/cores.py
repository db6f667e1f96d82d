"""Count the cores that are this process's own, beside the other ranks of its node, and the threads that decode on them.

cores()               # 8 of 64 where torchrun started eight ranks
decode_threads()      # 6: two are left to the step and the driver
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.concurrency.cgroup import cpu_quota

LEFT, DECODERS = 2, 4
"""Cores that are left to the thread that launches a step and to the driver, and those that decode in any case."""


class Cores(NamedTuple):
    """Cores of a process, and what gave their number."""

    count: int
    why: str


def cores() -> int:
    """Count the cores that this process may use without taking those of others (own_cores)."""
    return own_cores().count


def decode_threads(given: int | None = None) -> int:
    """Count the threads that decode beside a step: those given, else this process's cores less two that are left to
    the step and the driver; of four cores or fewer none is left, as then decoding is what a step waits for."""
    if given:
        return given
    own = cores()
    return max(own - LEFT, min(own, DECODERS))


def own_cores(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Cores:
    """Count the cores of this process and say where the number is from: the least that any of these gives.

    affinity          the cores that Slurm or taskset bound it to
    ranks             its share of the cores that the ranks of its node were started with. Slurm tasks have cores of
                      their own (SLURM_CPUS_PER_TASK); the ranks of a torchrun share those of torchrun
    cgroup's quota    a container's limit of CPU time, which its ranks share; a part of a core is not counted, as one
                      thread too many has the kernel stop them all until the period ends
    """
    affinity, ranks = len(os.sched_getaffinity(0)), max(1, _number(environment, "LOCAL_WORLD_SIZE") or 1)
    found = [Cores(affinity, f"{affinity} by affinity"), *_of_the_ranks(environment, affinity, ranks)]
    quota = cpu_quota(root)
    if quota is not None:
        among = f" for {ranks} ranks" if ranks > 1 else ""
        found.append(Cores(max(1, int(quota / ranks)), f"{quota:g} by the cgroup's quota{among}"))
    return min(found, key=lambda each: each.count)


def _of_the_ranks(environment: Mapping[str, str], affinity: int, ranks: int) -> list[Cores]:
    found, by_torchrun = [], "TORCHELASTIC_RUN_ID" in environment
    task = _number(environment, "SLURM_CPUS_PER_TASK") if "SLURM_STEP_ID" in environment else None
    if task is not None:  # in a batch script, outside of a step, a process has the cores of all its tasks
        sharing = ranks if by_torchrun else 1
        among = f" for {sharing} ranks" if sharing > 1 else ""
        found.append(Cores(max(1, task // sharing), f"{task} by SLURM_CPUS_PER_TASK{among}"))
    if ranks > 1 and (by_torchrun or task is None):
        together = max(affinity, _of_the_parent())
        if not by_torchrun:  # tasks of one step: what the job has here, which their parent may not be bound to
            together = _number(environment, "SLURM_CPUS_ON_NODE") or together
        found.append(Cores(max(1, together // ranks), f"{together} for {ranks} ranks"))
    return found


def _of_the_parent() -> int:
    """Count the cores of the process that started this one: torchrun's are those of all its ranks, even where each of
    them is bound to some."""
    with suppress(OSError):  # it has ended
        return len(os.sched_getaffinity(os.getppid()))
    return 0


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isdigit() and int(text) else None
