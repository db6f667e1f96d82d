"""What survival costs while nothing goes wrong:  python -m models.training.overheads [FOLDER ON THE DISK TO SAVE TO]

Prints rows for docs/reliability.md: how long a checkpoint blocks training, written at once and beside it; the check
that a step is finite, the vote on a stop, and what else happens after each step.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn

from models.recipe import Optim
from models.training import checkpoint, distributed
from models.training.distributed import World
from models.training.events import Heartbeat
from models.training.guard import Guard
from models.training.optim import clip, optimiser
from models.training.patience import Patience
from models.training.stop import NO, Vote
from models.training.writer import Writer
from models.vit import build_encoder

REPEATS, STEPS = 5, 200


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m models.training.overheads")
    parser.add_argument("folder", nargs="?", type=Path)
    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as made:
        folder, device = Path(made), torch.device("cuda" if torch.cuda.is_available() else "cpu")
        print(
            f"{device.type}, medians of {REPEATS}\n\n| encoder | MB | save at once, ms | copy, ms | on disk after, ms |"
        )
        print("|---|---|---|---|---|")
        for name in ("vit_small_patch16_224", "vit_base_patch16_224"):
            print(saves(name, folder, device), flush=True)
        print(f"\n| after each step | µs |\n|---|---|\n{finite(device)}")
        processes.spawn(after_steps, (folder,), 2)


def saves(name: str, folder: Path, device: torch.device) -> str:
    """A row: weights and two moments of a ViT."""
    method = build_encoder(name, image_size=224, patch=16, classes=1000).to(device)
    made = stepped(method)
    state = {"method": method.state_dict(), "optimiser": made.state_dict()}
    at_once = median_s(lambda: checkpoint.save(folder, state))
    writer, blocked, whole = Writer(folder), [], []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        writer.save(state)
        if device.type == "cuda":
            torch.cuda.synchronize()  # the copies hold up the next step on the device, if not on the host
        blocked.append(time.perf_counter() - began)
        writer.wait()
        whole.append(time.perf_counter() - began)
    writer.close()
    numbers = at_once, statistics.median(blocked[1:]), statistics.median(whole[1:])  # the first allocates
    size = (folder / checkpoint.LAST).stat().st_size / 1e6
    return f"| {name} | {size:.0f} | " + " | ".join(f"{1000 * number:.0f}" for number in numbers) + " |"


def stepped(method: nn.Module) -> torch.optim.AdamW:
    """An optimiser with moments."""
    for parameter in method.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    made = optimiser(method, Optim())
    made.step()
    return made


def finite(device: torch.device) -> str:
    """A row: the step with the check over the step without, for ViT-S."""
    method = build_encoder("vit_small_patch16_224", image_size=224, patch=16, classes=1000).to(device)
    made, guard = stepped(method), Guard(World(0, 1, 0, device))
    loss, norm, ids = torch.ones((), device=device), clip(method.parameters(), None), torch.arange(4)

    def checked() -> None:
        guard.step(made, loss, norm, ids, 0)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def plain() -> None:
        made.grad_scale = made.found_inf = None
        made.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    spent = zip(*((median_s(plain), median_s(checked)) for _ in range(REPEATS)), strict=True)
    without, with_it = (1e6 * statistics.median(each) for each in spent)
    return f"| finite check, in an AdamW step of {without:.0f} | {with_it - without:.0f} |"


def after_steps(rank: int, folder: Path) -> None:
    """Rows, from two ranks: the vote that nobody waits for, one that all wait for; heartbeat and patience."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    world = World(rank, 2, rank, torch.device("cpu"), dist.new_group(backend="gloo"))
    vote, heartbeat, patience = Vote(world), Heartbeat(folder, rank), Patience(folder, rank, 2, 600)
    rows = {
        "vote, read a step later": lambda: vote(NO),
        "vote that is waited for": lambda: distributed.agree(False, world),
        "heartbeat and patience": lambda: (heartbeat(1), patience(1)),
    }
    for name, call in rows.items():
        spent = []
        for _ in range(STEPS):
            time.sleep(0.01)  # a step, in which a vote travels
            began = time.perf_counter()
            call()
            spent.append(time.perf_counter() - began)
        if rank == 0:
            print(f"| {name} | {1e6 * statistics.median(spent):.0f} |", flush=True)
    vote.close()
    patience.close()
    distributed.finish(world)


def median_s(call: Callable[[], object]) -> float:
    call()
    spent = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


if __name__ == "__main__":
    main()
