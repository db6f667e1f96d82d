"""One process or many: who am I, on which device, and what do all of us agree on."""

import os
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.config.recipe import Run
from models.records.events import NODE
from pipeline.errors import InputError

LEAST_TIMEOUT_S, TIMEOUT = 300, 2
"""Collectives give up after twice run.hang_timeout_s, when models.training.hang_timeout should have ended the process."""
SETTLE_S = 0.1
"""A thousand times what a group's threads need to let go of their last work."""
_ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@dataclass
class World:
    """This process among all: `control` is a gloo group for tensors on the host, absent in a single process; `saving`
    another, for the thread that writes a sharded run's checkpoints.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    saving: dist.ProcessGroup | None = None
    nodes: tuple[str, ...] = ()
    """The node of each rank; empty in a single process."""

    @property
    def main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0


def start(run: Run) -> World:
    """Join the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), or be alone; bind the device.

    NCCL between GPUs, gloo between CPUs. Raises InputError if `run.devices` is not what was started or is more than
    is visible, if a single process would leave visible GPUs idle unasked or be sharded, if two processes share a GPU,
    or if srun started several that do not know of each other.
    """
    _check_step()
    rank, size, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    cuda = torch.cuda.is_available() if run.device == "auto" else run.device == "cuda"
    visible = torch.cuda.device_count() if cuda else 0
    _check_devices(run, size, visible, cuda)
    device = torch.device("cuda", _gpu(local, visible)) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
    if size == 1:
        if run.shard:
            raise InputError(
                "run.shard spreads a run over processes, one was started; use torchrun, or drop --run.shard"
            )
        return World(rank, size, local, device)
    limit = timedelta(seconds=max(LEAST_TIMEOUT_S, TIMEOUT * run.hang_timeout_s))
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None, timeout=limit)
    world = World(rank, size, local, device, dist.new_group(backend="gloo", timeout=limit))
    if run.shard:
        world.saving = dist.new_group(backend="gloo", timeout=limit)
    if cuda:
        _check_shared(world)
    nodes = [NODE] * size
    dist.all_gather_object(nodes, NODE, group=world.control)
    world.nodes = tuple(nodes)
    return world


def finish(world: World) -> None:
    """Leave the groups. No thread of theirs is left: one that let go of its last tensor while Python shuts down
    would abort the process, after all its work.
    """
    if world.size > 1:
        settle()
        world.control = world.saving = None  # the threads are joined with the last reference
        dist.destroy_process_group()


def settle() -> None:
    """Before a group goes: let its threads finish with their last work.

    Gloo's forget a collective once it is over, and may need Python's lock for that; a group that goes meanwhile joins
    them with the lock in its hands, and both wait for ever (torch 2.13; seen once in a test, right after a backward).
    """
    time.sleep(SETTLE_S)


def wrap(method: nn.Module, world: World) -> nn.Module:
    """The method under DDP, which averages gradients over ranks as backward goes; itself in a single process.

    Not static_graph: the labels-only phase runs another graph than the steps after it. Every parameter must get a
    gradient on every rank in every step (models.method.touch_for_ddp). models.distributed.fsdp is the other way.
    """
    if world.size == 1:
        return method
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # the name that torch < 2.13 knows
        return DistributedDataParallel(
            method,
            device_ids=[world.device.index] if world.device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=False,
            gradient_as_bucket_view=True,
        )


def gathering(model: nn.Module, last: bool) -> AbstractContextManager:
    """For the backward pass of a micro-batch: under DDP ranks exchange gradients once, in the last one."""
    return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()


def agree(flag: bool, world: World) -> bool:
    """Whether any rank says yes; collective, waits for all (models.training.stop.Vote does not)."""
    if world.size == 1:
        return flag
    votes = torch.tensor(int(flag))
    dist.all_reduce(votes, dist.ReduceOp.MAX, group=world.control)
    return bool(votes)


def same(value: int | str, world: World, what: str) -> None:
    """Raise InputError, on every rank, unless all ranks hold the same value; collective."""
    held = [value] * world.size
    if world.size > 1:
        dist.all_gather_object(held, value, group=world.control)
    if len(set(held)) > 1:
        raise InputError(f"the ranks disagree on {what}: {held}; check that all see the same files, and run again")


def from_main(value: Any, world: World) -> Any:
    """The main rank's value, on every rank; collective."""
    held = [value]
    if world.size > 1:
        dist.broadcast_object_list(held, 0, group=world.control)
    return held[0]


def add(tensor: Tensor, world: World) -> Tensor:
    """The sum of a host tensor over the ranks; collective, in place."""
    if world.size > 1:
        dist.all_reduce(tensor, group=world.control)
    return tensor


def group(tensor: Tensor, world: World) -> dist.ProcessGroup | None:
    """The group that carries such a tensor: `control` on the host, NCCL (the default group) on a GPU."""
    return world.control if tensor.device.type == "cpu" else None


def accumulation(batches: Sequence[int], world_size: int, device_images: int | None) -> int:
    """The fewest micro-batches per step that fit: each of `batches` (images per step and kind) divides evenly.

    batches        global sizes of the parts of a step, such as labelled and unlabelled; zeros are left out
    device_images  most images on a device at once; no limit when absent

    Even parts keep the mean over ranks and micro-batches the mean over the step. Raises InputError if none fits.
    """
    parts = [images for images in batches if images]
    names = " + ".join(str(images) for images in parts)
    if any(images % world_size for images in parts):
        raise InputError(
            f"a step of {names} images does not divide over {world_size} devices; choose data.batch and data.ratio so "
            "that each part does"
        )
    shares = [images // world_size for images in parts]
    for count in range(1, min(shares) + 1):
        fits = device_images is None or sum(shares) // count <= device_images
        if fits and all(share % count == 0 for share in shares):
            return count
    least = sum(shares) // max(n for n in range(1, min(shares) + 1) if all(share % n == 0 for share in shares))
    raise InputError(
        f"a step of {names} images over {world_size} device(s) divides evenly only down to {least} images at once, "
        f"run.device_images is {device_images}; raise it, or choose data.batch and data.ratio with more divisors"
    )


def _check_step() -> None:
    """srun says to each task how many there are in its step; a batch script and an interactive shell are one each,
    whatever SLURM_NTASKS says of their job.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks > 1 and "RANK" not in os.environ:
        raise InputError(
            f"srun started {tasks} tasks, but RANK is not set: each would write the same folder, alone; use "
            "`python -m slurm.submit`, or srun --ntasks-per-node 1 torchrun ... train.py, or srun --ntasks 1"
        )


def _check_devices(run: Run, size: int, visible: int, cuda: bool) -> None:
    if cuda and visible == 0:
        raise InputError(
            "run.device is cuda, but no GPU is visible; check CUDA_VISIBLE_DEVICES or use --run.device cpu"
        )
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if cuda and local_size > visible > 1:
        raise InputError(f"{local_size} processes were started here, {visible} GPUs are visible; start {visible}")
    if run.devices is not None and run.devices != size:
        if cuda and size == 1 and run.devices > visible:
            raise InputError(f"run.devices is {run.devices}, {visible} GPU(s) are visible; lower it")
        raise InputError(
            f"run.devices is {run.devices}, {size} process(es) were started; "
            f"use `torchrun --nproc-per-node {run.devices} train.py ...`, or drop --run.devices"
        )
    if run.devices is None and size == 1 and visible > 1:
        raise InputError(
            f"{visible} GPUs are visible, one process was started; use `torchrun --nproc-per-node {visible} train.py "
            "...` for all of them or --run.devices 1 for one"
        )


def _gpu(local_rank: int, visible: int) -> int:
    return local_rank if visible > 1 else 0  # Slurm may show each task its own GPU only, under the number 0


def _check_shared(world: World) -> None:
    mine = str(torch.cuda.get_device_properties(world.device).uuid)
    everyone = [mine] * world.size
    dist.all_gather_object(everyone, mine, group=world.control)
    if len(set(everyone)) < world.size:
        raise InputError(f"{world.size} processes share {len(set(everyone))} GPU(s); start one process per GPU")
