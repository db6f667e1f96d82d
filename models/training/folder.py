"""What a run folder says about itself: the recipe it was begun with, and where it ran."""

import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from models.recipe import Recipe
from models.training.distributed import World
from models.training.guard import FILE as NOT_FINITE
from pipeline.errors import InputError

RECIPE, ENVIRONMENT, LOCK = "recipe.json", "environment.json", "lock"
FREE = {
    *(f"run.{name}" for name in ("folder", "fresh", "device", "devices", "device_images", "compile", "oracle")),
    *(f"run.{name}" for name in ("log_steps", "save_steps", "evaluate_steps", "stop_step", "patience_s")),
    *(f"data.{name}" for name in ("root", "threads", "ahead", "memory_mb", "patience_s")),
}
"""Fields that say where and how a run computes, not what: they may change from one start to the next."""
CURES = {"optim.lr", "optim.clip"}
"""Fields that may also change once a run has met a loss that is not finite (models.training.guard)."""
PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "ffcv")


class InUse(InputError):
    """Another process holds the folder: a lock outlives its owner's node for a while on network file systems."""


def claim(folder: Path, recipe: Recipe) -> None:
    """Make `folder` this recipe's, or find that it is already; on the main rank, before anything is written there.

    Raises InputError if it holds a run and `run.fresh` is set, or a run of another recipe.
    """
    if recipe.run.fresh and (folder / RECIPE).exists():
        raise InputError(f"{folder} holds a run already; choose another --run.folder, or drop --run.fresh to carry on")
    check_same_recipe(folder, recipe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror}; choose another --run.folder") from error
    _write(folder / RECIPE, asdict(recipe))


def lock(folder: Path) -> int:
    """Keep every other process out of `folder` until the descriptor is closed or this process ends, however it does.

    Raises InUse if another has it.
    """
    held = os.open(folder / LOCK, os.O_CREAT | os.O_WRONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        reason = f"{folder} is in use by another process; wait for it, or choose another --run.folder"
        raise InUse(reason) from None
    return held


def check_same_recipe(folder: Path, recipe: Recipe) -> None:
    """Raise InputError naming the first field in which the run in `folder` differs; FREE and, if needed, CURES may."""
    path = folder / RECIPE
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder for the run; choose another --run.folder")
    if not path.exists():
        return
    try:
        before = dict(_flat(json.loads(path.read_text())))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); restore it, or choose another --run.folder") from error
    free = FREE | (CURES if (folder / NOT_FINITE).exists() else set())
    now = dict(_flat(json.loads(json.dumps(asdict(recipe)))))
    for field in ("name", *now, *before):
        old, new = before.get(field), now.get(field)  # a field that a newer version adds is None before
        if field not in free and old != new:
            raise InputError(
                f"{folder} was begun with {field} {old}, now it is {new}; repeat the command as it was, or choose "
                "another --run.folder"
            )


def environment(folder: Path, world: World) -> dict:
    """Versions, machine and commit of this start, written to `folder`/environment.json."""
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
    _write(folder / ENVIRONMENT, found)
    return found


def _flat(part: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _write(path: Path, content: dict) -> None:
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


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
    """The checkout's commit, with "+" if files differ from it; None outside of git. A job's snapshot brings its own."""
    if commit := os.environ.get("SHOTCRETE_COMMIT"):
        return commit
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
