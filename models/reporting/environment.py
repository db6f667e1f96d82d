"""environment.json: versions, machine and commit of a start."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

import torch

from models.distributed.process_group import World
from models.records.run_folder import ENVIRONMENT
from pipeline.store.atomic_write import write_whole

PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "ffcv")


def write_environment(folder: Path, world: World) -> dict:
    """Write versions, machine and commit of this start to `folder`/environment.json; -> its content."""
    cuda = world.device.type == "cuda"
    found = {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda if cuda else None,
        "device": torch.cuda.get_device_name(world.device) if cuda else "CPU",
        "devices": world.size,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "commit": _commit(),
    }
    write_whole(folder / ENVIRONMENT, json.dumps(found, indent=2) + "\n")
    return found


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
