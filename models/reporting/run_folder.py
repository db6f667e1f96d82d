"""What a run folder says about itself: the recipe it was begun with, and where it ran."""

import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path

import torch

from models.checkpoint.checkpoint import LAST, PREVIOUS
from models.config.recipe import Recipe
from models.distributed.process_group import World
from models.optim.guard import FILE as NOT_FINITE
from models.records import events
from models.records.scores import said, scores
from models.reporting import journal
from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole

RECIPE, ENVIRONMENT, LOCK, REPORT = "recipe.json", "environment.json", "lock", "report.html"
FREE = {
    *(f"run.{name}" for name in ("folder", "fresh", "device", "devices", "device_images", "compile", "oracle")),
    *(f"run.{name}" for name in ("shard", "log_steps", "save_steps", "evaluate_steps", "stop_step", "hang_timeout_s")),
    *(f"data.{name}" for name in ("root", "threads", "ahead", "backend", "memory_mb", "hang_timeout_s")),
}
"""Fields that say where and how a run computes, not what: they may change from one start to the next."""
CURES = {"optim.lr", "optim.clip"}
"""Fields that may also change once a run has met a loss that is not finite (models.optim.guard)."""
PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "ffcv")


class InUse(InputError):
    """Another process holds the folder: a lock outlives its owner's node for a while on network file systems."""


def claim(folder: Path, recipe: Recipe) -> int:
    """Make `folder` this recipe's, or find that it is already; on the main rank, before anything is written there.

    -> the lock: every other process is kept out until it is closed or this process ends, however it does.
    Raises InputError if the folder holds a run of another recipe, or any and `run.fresh` is set, InUse if another
    process is in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder / LOCK, os.O_CREAT | os.O_WRONLY, 0o644)
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}; choose another --run.folder") from error
    try:
        _lock(held, folder)
        check_same_recipe(folder, recipe)
        if not holds_run(folder):
            (folder / NOT_FINITE).unlink(missing_ok=True)  # of a run that was given up
        _write(folder / RECIPE, asdict(recipe))
    except BaseException:
        os.close(held)
        raise
    return held


def holds_run(folder: Path) -> bool:
    """Whether there is something to carry on from, or that is finished; what failed before may be begun anew."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS, REPORT))


def over(folder: Path, recipe: Recipe) -> str | None:
    """In a line, that the run in `folder` has trained to its end and told of it; None where there is more to do.

    Raises InputError where `check_same_recipe` does.
    """
    check_same_recipe(folder, recipe)
    told = [row for row in events.read(folder) if "rank" in row]
    if not told or told[-1]["event"] != "done" or not all((folder / name).exists() for name in (LAST, REPORT)):
        return None
    came = "".join(f", {score}" for score in said(scores(journal.read(folder))))
    return (
        f"{folder} is over: {recipe.name}, step {told[-1]['step']:,} of {told[-1]['step']:,}{came}; {folder / REPORT} "
        "tells of it; for a new run choose another --run.folder"
    )


def _lock(held: int, folder: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        reason = f"{folder} is in use by another process; wait for it, or choose another --run.folder"
        raise InUse(reason) from None


def check_same_recipe(folder: Path, recipe: Recipe) -> None:
    """Raise InputError naming the first field in which the run in `folder` differs; FREE and, if needed, CURES may.

    A field that has come since the run was begun had its default then. `run.fresh` refuses any run.
    """
    path = folder / RECIPE
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder for the run; choose another --run.folder")
    if not holds_run(folder):
        return
    if recipe.run.fresh:
        raise InputError(f"{folder} holds a run already; choose another --run.folder, or drop --run.fresh to carry on")
    if not path.exists():
        return
    try:
        before = dict(_flat(_with_defaults(json.loads(path.read_text()), recipe)))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); restore it, or choose another --run.folder") from error
    free = FREE | (CURES if (folder / NOT_FINITE).exists() else set())
    now = dict(_flat(json.loads(json.dumps(asdict(recipe)))))
    for field in ("name", *now, *before):
        old, new = before.get(field), now.get(field)
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


def _with_defaults(before: dict, part: object) -> dict:
    """What was saved of a dataclass, with the default of each field that it does not hold."""
    filled = dict(before)
    for field in fields(part):
        value = getattr(part, field.name)
        if is_dataclass(value) and isinstance(before.get(field.name), dict):
            filled[field.name] = _with_defaults(before[field.name], value)
        elif field.name not in before and (field.default is not MISSING or field.default_factory is not MISSING):
            default = field.default_factory() if field.default is MISSING else field.default
            filled[field.name] = json.loads(json.dumps(asdict(default) if is_dataclass(default) else default))
    return filled


def _flat(part: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _write(path: Path, content: dict) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")


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
