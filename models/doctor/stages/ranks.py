"""Do several processes train what one does? DDP and FSDP2 with one rank wrapped for real, then all of a node's GPUs."""

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from models.bench.step_time import fix_pass_rate
from models.bench.synthetic import synthetic_batch
from models.config.resolve import resolve
from models.distributed import fsdp
from models.distributed.process_group import World, settle
from models.doctor.cluster import exchange_row
from models.doctor.own_commands import Done, apart, digits, free_port, ran, train, world
from models.doctor.stage import Context, Row, Stage, no_gpu
from models.doctor.stages.end_to_end import fresh
from models.factory import method_class
from models.full_precision import full_precision
from models.method import Method, StepInfo

EXACT = 1e-5
"""Largest relative difference of gradients in float32, whose sums DDP and FSDP2 make in another order."""
TRAINED = 1e-2
"""Largest relative difference of the weights after 24 steps, by which rounding has grown."""


@final
class Ranks(Stage):
    """The same step by one process, by wrapped ones, and by several."""

    place = 8
    deadline_s = 360

    def run(self, context: Context) -> Iterator[Row]:
        """Yield a row for each wrapper, for the exchange between GPUs, and for the runs of several ranks."""
        device = torch.device("cuda", 0) if context.cuda else torch.device("cpu")
        yield from wrapped_rows(device)
        ranks = torch.cuda.device_count() if context.cuda else 2
        if ranks < 2:
            yield Row("several GPUs", "skipped", "one GPU")
            return
        yield peers_row(ranks) if context.cuda else no_gpu("GPUs reach each other's memory")
        first, *_ = by_ranks(["-m", "models.doctor.all_reduce"], ranks)
        yield exchange_row("all-reduce", *first)
        if not context.quick:
            yield from several_rows(context, ranks)


def wrapped_rows(device: torch.device) -> Iterator[Row]:
    """Compare the gradients of a method under DDP and under FSDP2, each of one rank, with the plain method's."""
    kind = "nccl" if device.type == "cuda" else "gloo"
    address = f"tcp://127.0.0.1:{free_port()}"
    dist.init_process_group(kind, address, rank=0, world_size=1, device_id=device if device.type == "cuda" else None)
    recipe = resolve("semi_mae:digits", ["--encoder.width=64", "--encoder.depth=2", "--encoder.heads=2"])
    torch.manual_seed(0)
    plain = method_class(recipe)(recipe, 10)
    plain.set_dataset_size(64, 64)
    plain.set_label_counts(torch.full((10,), 64))
    fix_pass_rate(plain, 0.5)
    plain = plain.train().to(device)
    batch = synthetic_batch(recipe, 32, 10, device)

    def gradients(model: torch.nn.Module, method: Method) -> list[Tensor]:
        with full_precision(device):
            loss = model(batch, StepInfo(10**6, labels_only=False))
            loss.total.backward()
        found = [each.grad for each in method.parameters() if each.grad is not None]
        return [each.full_tensor() if isinstance(each, DTensor) else each for each in found]

    expected = gradients(plain, plain)
    plain.zero_grad(set_to_none=True)
    sharded = fsdp.shard(copy.deepcopy(plain), World(0, 1, 0, device))
    ddp = DistributedDataParallel(
        plain,
        device_ids=[device.index] if device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
    for name, model, method in (("DDP", ddp, plain), ("FSDP2", sharded, sharded)):
        came = gradients(model, method)
        far = relative(came, expected)
        what, figure = f"{name} of one rank, {kind}", f"gradients {far:.0e} from a plain step's"
        right = len(came) == len(expected) and far <= EXACT
        to_do = "" if right else "train by one process, and report it"
        yield Row(what, "ok" if right else "wrong", figure, to_do, {"apart": far})
    settle()
    dist.destroy_process_group()


def relative(came: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the relative difference of two lists of tensors."""
    if [each.shape for each in came] != [each.shape for each in expected]:
        return float("inf")
    far = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(came, expected, strict=True))
    return (far / sum(float(b.double().square().sum()) for b in expected)) ** 0.5


def peers_row(ranks: int) -> Row:
    """Say which GPUs copy to each other without the host."""
    pairs = [(a, b) for a in range(ranks) for b in range(ranks) if a != b]
    reached = sum(torch.cuda.can_device_access_peer(a, b) for a, b in pairs)
    figure = f"{reached} of {len(pairs)} pairs"
    to_do = "" if reached == len(pairs) else "NCCL copies through the host: see `nvidia-smi topo -m`"
    return Row("GPUs reach each other's memory", "slow" if to_do else "ok", figure, to_do)


def by_ranks(words: Sequence[str], ranks: int, limit_s: float = 150) -> list[Done]:
    """Run a command as so many ranks on this machine, and wait for all."""
    port = free_port()
    with ThreadPoolExecutor(ranks) as started:
        waiting = [started.submit(ran, words, limit_s=limit_s, **world(ranks, rank, port)) for rank in range(ranks)]
        return [each.result() for each in waiting]


def several_rows(context: Context, ranks: int) -> Iterator[Row]:
    """Train on digits by one process, by DDP and by FSDP2 over all ranks, and compare the weights."""
    root, folder = digits(context.folder), fresh(context.folder / "ranks")
    flags = [f"--data.batch={8 * ranks}", "--data.ratio=7", *([] if context.cuda else ["--run.device=cpu"])]
    flags += ["--run.precision=float32"]  # so that what differs is the exchange
    alone = train(folder / "one", root, *flags, "--run.devices=1")
    if alone.code != 0:
        yield Row("one process", "wrong", f"exit code {alone.code}: {alone.last}", "see the stage end_to_end")
        return
    for name, more in (("DDP", []), ("FSDP2", ["--run.shard"])):
        yield run_row(name, folder, root, [*flags, *more], ranks)


def run_row(name: str, folder: Path, root: Path, flags: Sequence[str], ranks: int) -> Row:
    """Train by several ranks, and compare the weights with those of one process."""
    port, own = free_port(), folder / name
    with ThreadPoolExecutor(ranks) as started:
        waiting = [started.submit(train, own, root, *flags, **world(ranks, rank, port)) for rank in range(ranks)]
        done = [each.result() for each in waiting]
    what = f"24 steps by {name} over {ranks} ranks"
    if any(each.code != 0 for each in done):
        bad = next(each for each in done if each.code != 0)
        return Row(what, "wrong", f"exit code {bad.code}: {bad.last}", "read the log; NCCL_DEBUG=INFO says more")
    far = apart(own, folder / "one")
    figure = f"weights {far:.0e} from those of one process"
    if not far <= TRAINED:
        return Row(what, "wrong", figure, "train by one process, and report it", {"apart": far})
    return Row(what, "ok", figure, "", {"apart": far})
