"""environment.json: versions, machine and commit of a start."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

import torch

from models.distributed.process_group import World
from models.records import events
from models.records.run_folder import ENVIRONMENT
from pipeline.concurrency.cores import own_cores
from pipeline.store.atomic_write import write_whole

PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "ffcv")


def write_environment(folder: Path, world: World) -> dict:
    """Write versions, machine and commit of this start to `folder`/environment.json; -> its content."""
    cuda, own = world.device.type == "cuda", own_cores()
    found = {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda if cuda else None,
        "device": torch.cuda.get_device_name(world.device) if cuda else "CPU",
        "devices": world.size,
        "processor": _processor(),
        "cores": own.count,
        "cores_from": own.why,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "commit": _commit(),
    }
    write_whole(folder / ENVIRONMENT, json.dumps(found, indent=2) + "\n")
    return found


def numerics(world: World) -> str:
    """What the last bits of a run's losses depend on, beside its recipe: ranks, device, threads of a rank and torch.

    A reduction is summed in the order that these give it.

    numerics(World(0, 1, 0, torch.device("cpu")))  # "1 rank(s) of 2 CPU thread(s), Intel(R) Xeon(R), torch 2.13.0"
    """
    if world.device.type == "cuda":
        part = f"1 {torch.cuda.get_device_name(world.device)}"
    else:
        part = f"{torch.get_num_threads()} CPU thread(s), {_processor()}"
    return f"{world.size} rank(s) of {part}, torch {torch.__version__}"


def where_exactness_ends(folder: Path, world: World) -> str | None:
    """A line for a run that goes on with other `numerics` than it was last started with; None if they are the same."""
    before, now = events.latest(folder, "numerics"), numerics(world)
    if before in (None, now):
        return None
    return (
        f"so far this run had {before}; it goes on with {now}. Sums are rounded in another order: the rest equals an "
        "uninterrupted run's to rounding, not to the bit"
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str | None:
    """The checkout's commit, with "+" if files differ from it, or SHOTCRETE_COMMIT, which a job's snapshot sets; None
    outside of git.
    """
    if commit := os.environ.get("SHOTCRETE_COMMIT"):
        return commit
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
