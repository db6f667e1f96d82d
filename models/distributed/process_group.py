"""Start and end the processes of a run, bind each to its device, and exchange small values between them."""

import os
import time
import warnings
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
"""Collectives give up after TIMEOUT times run.hang_timeout_s, when models.training.liveness has ended the process."""
SETTLE_S = 0.1
"""About a thousand times what a group's threads need to drop the tensors of their last collective."""
_ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


@dataclass
class World:
    """This process among those of the run.

    control  gloo group for tensors on the host; None in a single process
    saving   gloo group of the thread that saves a sharded run's checkpoints; None in other runs
    nodes    the node of each rank; empty in a single process
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    saving: dist.ProcessGroup | None = None
    nodes: tuple[str, ...] = ()

    @property
    def main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0


def start(run: Run) -> World:
    """Join the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), if it did, and bind the device.

    world = start(Run(device="cpu"))
    ...
    finish(world)

    GPUs exchange by NCCL, CPUs by gloo. Raises InputError if `run.devices` differs from the number of processes or
    exceeds that of visible GPUs, if a single process would be sharded or use one of several visible GPUs without
    `run.devices`, if two processes share a GPU, or if srun started several processes without RANK.
    """
    _check_srun()
    rank, size, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    cuda = torch.cuda.is_available() if run.device == "auto" else run.device == "cuda"
    visible = torch.cuda.device_count() if cuda else 0
    _check_devices(run, size, visible, cuda)
    device = torch.device("cuda", _gpu(local, visible)) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        set_up_cuda()
    if size == 1:
        if run.shard:
            raise InputError("run.shard needs several processes, one was started; use torchrun, or drop --run.shard")
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


def set_up_cuda() -> None:
    """Choose kernels for this process: TF32 for what autocast leaves in float32, and attention without cuDNN.

    cuDNN's attention, torch's first choice on Hopper, builds a plan for each new shape, tens to hundreds of
    milliseconds each, and the number of strong images that pass differs from step to step. Flash attention takes any
    shape. SHOTCRETE_CUDNN_ATTENTION=1 leaves the choice to torch, for the doctor's comparison.
    """
    torch.set_float32_matmul_precision("high")
    if os.environ.get("SHOTCRETE_CUDNN_ATTENTION") != "1":
        torch.backends.cuda.enable_cudnn_sdp(False)


def finish(world: World) -> None:
    """Leave the process groups and end their threads.

    A thread that is left and drops its last tensor while Python shuts down would abort the process.
    """
    if world.size > 1:
        settle()
        world.control = world.saving = None  # the threads are joined with the last reference
        dist.destroy_process_group()


def settle() -> None:
    """Wait until a group's threads have dropped the tensors of their last collective; call it before a group is freed.

    To drop a tensor gloo's thread may need Python's lock. A group that is freed meanwhile joins the thread while it
    holds that lock, and both wait for ever (torch 2.13; seen once in a test, right after a backward pass).
    """
    time.sleep(SETTLE_S)


def wrap_ddp(method: nn.Module, world: World) -> nn.Module:
    """The method under DDP, which averages gradients over ranks during the backward pass; itself in a single process.

    static_graph stays off, as the labels-only phase runs another graph than the steps after it. Every parameter must
    get a gradient on every rank in every step (models.method.touch_for_ddp). models.distributed.fsdp is the
    alternative.
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


def any_rank(flag: bool, world: World) -> bool:
    """Whether `flag` is True on any rank. A collective call that waits for all ranks; models.training.stop.Vote does
    not.
    """
    if world.size == 1:
        return flag
    votes = torch.tensor(int(flag))
    dist.all_reduce(votes, dist.ReduceOp.MAX, group=world.control)
    return bool(votes)


def check_same(value: int | str, world: World, what: str) -> None:
    """Raise InputError on every rank, naming `what`, unless all ranks hold the same value. A collective call."""
    held = [value] * world.size
    if world.size > 1:
        dist.all_gather_object(held, value, group=world.control)
    if len(set(held)) > 1:
        raise InputError(f"the ranks disagree on {what}: {held}; check that all see the same files, and run again")


def from_main(value: Any, world: World) -> Any:
    """The main rank's value, on every rank. A collective call."""
    held = [value]
    if world.size > 1:
        dist.broadcast_object_list(held, 0, group=world.control)
    return held[0]


def all_on_main(value: Any, world: World) -> list[Any]:
    """Every rank's value, in the order of the ranks, on the main rank; an empty list on others. A collective call.

    parts = all_on_main(records, world)
    """
    if world.size == 1:
        return [value]
    held = [None] * world.size if world.main else None
    dist.gather_object(value, held, 0, group=world.control)
    return held or []


def sum_over_ranks(tensor: Tensor, world: World) -> Tensor:
    """Add up a host tensor over the ranks, in place; -> the tensor. A collective call."""
    if world.size > 1:
        dist.all_reduce(tensor, group=world.control)
    return tensor


def buffers_from_main(module: nn.Module, world: World) -> None:
    """Give every rank the main rank's buffers, as batch norm's running means differ between ranks. A collective call.

    buffers_from_main(method, world)
    """
    if world.size > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0, group_for(buffer, world))


def group_for(tensor: Tensor, world: World) -> dist.ProcessGroup | None:
    """The group that exchanges a tensor: `control` for one on the host, NCCL (None, the default group) on a GPU."""
    return world.control if tensor.device.type == "cpu" else None


def _check_srun() -> None:
    """Refuse several tasks of one srun without RANK. SLURM_STEP_NUM_TASKS counts the tasks of an srun; SLURM_NTASKS
    counts those of the job, and is set in a batch script and an interactive shell, too, which are one process.
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
    return local_rank if visible > 1 else 0  # Slurm may make one GPU visible to each task, as number 0


def _check_shared(world: World) -> None:
    mine = str(torch.cuda.get_device_properties(world.device).uuid)
    everyone = [mine] * world.size
    dist.all_gather_object(everyone, mine, group=world.control)
    if len(set(everyone)) < world.size:
        raise InputError(f"{world.size} processes share {len(set(everyone))} GPU(s); start one process per GPU")
