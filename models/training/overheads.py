"""Measure what fault tolerance costs a run in which nothing fails.

    python -m models.training.overheads [FOLDER]         # on the disk to save to

Prints the rows of docs/reliability.md: how long a checkpoint blocks training, saved by the loop and by a thread; and,
compared with a training step of ViT-S on 8 images, the time of the finite check, of the vote on a stop, of heartbeat
and hang timeout. What is compared takes turns; each figure is a median, with quartiles behind it. It takes about two
minutes on 2 cores.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn

from models.checkpoint import save_load
from models.checkpoint.async_save import AsyncSaver
from models.config.recipe import Optim
from models.distributed import process_group
from models.distributed.process_group import World
from models.encoder.vit import build_encoder
from models.optim.build import build_optimiser
from models.optim.update import FiniteGuard, clip_grad_norm
from models.training.liveness import HangTimeout, Heartbeat
from models.training.stop import NO, Vote
from pipeline.text import line, table

ENCODERS = "vit_small_patch16_224", "vit_base_patch16_224"
IMAGES = 8
SAVES = "encoder", "checkpoint, MB", "saved by the loop, ms", "by a thread: the loop waits, ms", "on disk, ms"
STEPS = "after each step", "ms", "% of a step"


@dataclass(frozen=True)
class Rounds:
    """Number of times that each thing is timed."""

    saves: int = 5
    updates: int = 40
    steps: int = 100


def main(rounds: Rounds = Rounds()) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.training.overheads")
    parser.add_argument("folder", nargs="?", type=Path)
    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as made:
        folder, device = Path(made), torch.device("cuda" if torch.cuda.is_available() else "cpu")
        print(f"{device.type}: medians (quartiles)\n")
        print(table([SAVES]), end="")
        for name in ENCODERS:
            print(saves(name, folder, device, rounds.saves), flush=True)
        print("\n" + table([STEPS]), end="")
        step_s = updates(device, rounds.updates)
        processes.spawn(after_steps, (folder, step_s, rounds.steps), 2)


def saves(name: str, folder: Path, device: torch.device, rounds: int) -> str:
    """A row: weights and two moments of a ViT, saved by the loop and by the thread in turn."""
    method = build_encoder(name, image_size=224, patch=16, classes=1000).to(device)
    state = {"method": method.state_dict(), "optimiser": stepped(method).state_dict()}
    saver, spent = AsyncSaver(folder), []
    for _ in range(rounds + 1):
        in_loop = wall_s(lambda: save_load.save(folder, state), device)
        began = time.perf_counter()
        blocked = wall_s(lambda: saver.save(state), device)  # with the device, which copies before its next step
        saver.wait()
        spent.append((in_loop, blocked, time.perf_counter() - began))
    saver.close()
    size = (folder / save_load.LAST).stat().st_size / 1e6
    columns = zip(*spent[1:], strict=True)  # the first round allocates
    return line([name, f"{size:.0f}", *(ms(column, 0) for column in columns)])


def stepped(method: nn.Module) -> torch.optim.Optimizer:
    """An optimiser of the method that has taken a step, so that it has moments."""
    for parameter in method.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    made = build_optimiser(method, Optim())
    made.step()
    return made


def updates(device: torch.device, rounds: int) -> float:
    """Print rows for one rank: AdamW with the finite check and without, in turn, for ViT-S; -> seconds of a step."""
    method = build_encoder(ENCODERS[0], image_size=224, patch=16, classes=1000).to(device)
    made, guard = stepped(method), FiniteGuard(World(0, 1, 0, device))
    images, ids = torch.zeros(IMAGES, 3, 224, 224, device=device), torch.arange(IMAGES)
    loss, norm = torch.ones((), device=device), torch.ones((), device=device)

    def plain() -> None:
        made.grad_scale = made.found_inf = None  # ty: ignore[missing-attribute] -- as FiniteGuard sets them
        made.step()

    def checked() -> None:
        guard.step(made, loss, norm, ids, 0)

    passes = [wall_s(lambda: method(images).sum().backward(), device) for _ in range(4)][1:]
    ways = in_turn((plain, checked, lambda: clip_grad_norm(method.parameters(), None)), rounds, device)
    step_s = statistics.median(passes) + sum(statistics.median(spent) for spent in (ways[1], ways[2]))
    extra = [b - a for a, b in zip(*ways[:2], strict=True)]
    print(line([f"a step of {IMAGES} images, {1000 * step_s:.0f} ms, in which AdamW takes", ms(ways[0], 1), ""]))
    row("the gradient's norm, which the journal reads, too", ways[2], step_s)
    row("AdamW that skips what is not finite, over AdamW", extra, step_s)
    row("the check at a log step whether all were finite", [wall_s(lambda: guard.check(Path()), device)], step_s)
    return step_s


def after_steps(rank: int, folder: Path, step_s: float, rounds: int) -> None:
    """Print rows for two ranks: the finite check's all-reduce, the vote that is read a step later, one that is waited
    for, heartbeat and hang timeout; in turn, each after some computing, during which a vote is exchanged.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    world = World(rank, 2, rank, torch.device("cpu"), dist.new_group(backend="gloo"))
    vote, heartbeat, hang_timeout = Vote(world), Heartbeat(folder, rank), HangTimeout(folder, rank, 2, 600)
    work, bad = torch.ones(512, 512), torch.zeros(())
    calls = {
        "the vote on a stop, read a step later": lambda: vote(NO),
        "a vote that is waited for": lambda: process_group.any_rank(False, world),
        "the finite check's all-reduce": lambda: dist.all_reduce(bad, dist.ReduceOp.MAX, world.control),
        "heartbeat and hang timeout": lambda: (heartbeat(1), hang_timeout(1)),
    }

    ways = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            compute(work, world)
            ways[name].append(wall_s(call, world.device))
    for name, spent in ways.items():
        if rank == 0:
            row(f"{name} (2 ranks)", spent[1:], step_s)
    vote.close()
    hang_timeout.close()
    process_group.finish(world)


def compute(work: torch.Tensor, world: World) -> None:
    """Compute for some milliseconds, beginning on both ranks at the same time."""
    dist.barrier(world.control)
    for _ in range(5):
        work @ work


def in_turn(calls: Sequence[Callable[[], object]], rounds: int, device: torch.device) -> list[list[float]]:
    """Seconds of each call in each round; every other round in the opposite order. A round before is not counted."""
    spent: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        turn = list(enumerate(calls))
        for place, call in turn if number % 2 else turn[::-1]:
            spent[place].append(wall_s(call, device))
    return [each[1:] for each in spent]


def wall_s(call: Callable[[], object], device: torch.device) -> float:
    """Seconds until the call has returned and the device has done its work."""
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def row(name: str, spent: Sequence[float], step_s: float) -> None:
    """Print a row: name, milliseconds, and percent of a step."""
    print(line([name, ms(spent, 2), f"{100 * statistics.median(spent) / step_s:.2f}"]), flush=True)


def ms(spent: Sequence[float], digits: int) -> str:
    """Milliseconds: median (lower to upper quartile)."""
    values = [1000 * value for value in spent]
    low, middle, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else values * 3
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
