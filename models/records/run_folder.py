"""The run folder: the names of its files, the lock, and the recipe that a run in it was begun with."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from models.config.extensions import Extension, extensions_of
from models.config.recipe import Recipe, Run
from models.records import events, metrics
from models.records.json_file import read_object
from models.records.jsonl import NUMBER, is_of
from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
RECIPE, ENVIRONMENT, LOCK, REPORT, NOT_FINITE = (
    "recipe.json", "environment.json", "lock", "report.html", "not_finite.json"
)  # fmt: skip
FILES = (
    *(LAST, f"{LAST}.partial", PREVIOUS, BEST, RECIPE, ENVIRONMENT, LOCK, REPORT, "report.md", NOT_FINITE),
    *(metrics.FILE, events.FILE),
)
TRACKING = "tracking"
"""Folder of what is known of a run's trackers and of the files that they write."""
FOLDERS = "heartbeat", "failed", "events", "report", TRACKING
MAY_CHANGE = {
    *(f"run.{name}" for name in ("folder", "fresh", "device", "devices", "device_images", "compile", "oracle")),
    *(f"run.{name}" for name in ("shard", "log_steps", "save_steps", "evaluate_steps", "stop_step", "hang_timeout_s")),
    *(f"run.{name}" for name in ("judge", "stop_after")),
    *(f"run.{name}" for name in ("knn", "probe", "rankme", "track")),
    *(f"data.{name}" for name in ("root", "backend", "memory_mb", "threads", "hw_decoder_load", "ahead")),
    *("data.hang_timeout_s", "method.labels"),  # the hash of what a file holds is compared (models.training)
}
"""Fields that say where and how a run computes, not what: they may change from one start to the next."""
EXTENSIONS = {f"run.{name}" for name in ("extend", "extend_schedule", "extend_lr")}
"""Fields to which another extension may be added once the run has ended."""
MAY_CHANGE_AFTER_NAN = {"optim.lr", "optim.clip"}
"""Fields that may also change once a run has met a loss or gradient that is not finite (models.optim.update), as may
the rate of the extension that it met it in."""


class InUse(InputError):
    """Another process holds the lock; on network file systems it outlives a node that crashed for a while."""


def folder_of(recipe: Recipe) -> Path:
    """The folder in which a recipe's run lives: run.folder, or runs/<name> with "-" for ":"."""
    return Path(recipe.run.folder or f"runs/{recipe.name.replace(':', '-')}").expanduser()


def claim(folder: Path, recipe: Recipe) -> int:
    """Create `folder`, lock it and write the recipe into it; on the main rank, before anything else is written there.

    lock = claim(folder, recipe)
    ...
    os.close(lock)

    -> the lock's file descriptor: no other process can claim the folder until it is closed or this process ends.
    Raises InputError if the folder cannot be written or `check_same_recipe` refuses it, InUse if another process
    holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_WRONLY, 0o644)
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}; choose another --run.folder") from error
    try:
        _lock(lock, folder)
        check_same_recipe(folder, recipe)
        if not holds_run(folder):
            (folder / NOT_FINITE).unlink(missing_ok=True)  # of an earlier run that saved nothing
        write_whole(folder / RECIPE, json.dumps(asdict(recipe), indent=2) + "\n")
    except BaseException:
        os.close(lock)
        raise
    return lock


def holds_run(folder: Path) -> bool:
    """Whether the folder holds a checkpoint or a report; if not, another recipe may begin in it."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS, REPORT))


def finished_line(folder: Path, recipe: Recipe) -> str | None:
    """One line with the scores of the run in `folder` if it has finished and has its report; None if it has not.

    Raises InputError where `check_same_recipe` does.
    """
    check_same_recipe(folder, recipe)
    done = ended(folder)
    kept = all((folder / name).exists() for name in (LAST, REPORT))
    if done is None or not kept or wants_more(folder, recipe):
        return None
    step, scores = done.get("step", 0), metrics.format_scores(metrics.latest_scores(metrics.read(folder)))
    how = f"step {step:,}, {done['why']}" if "why" in done else f"step {step:,} of {step:,}"
    line = (
        f"{folder} is finished: {', '.join([recipe.name, how, *scores])}; report: {folder / REPORT}; for a new run "
        "choose another --run.folder, to train this one for longer --run.extend"
    )
    return "\n".join([*damaged_rows(folder), line])


def wants_more(folder: Path, recipe: Recipe) -> bool:
    """Whether the run in `folder` has ended, and the recipe asks for more: another extension, or another
    `run.stop_after` than the one that ended it."""
    done = ended(folder)
    if done is None:
        return False
    stopped_early = "why" in done and done.get("stop_after") != recipe.run.stop_after
    return stopped_early or done.get("extensions", 0) != len(recipe.run.extend)


def ended(folder: Path) -> dict | None:
    """The event with which the run in `folder` has ended; None where it has begun, and not ended, since."""
    rows = [row for row in events.read(folder) if "rank" in row]
    return rows[-1] if rows and rows[-1]["event"] == "done" else None


def damaged_rows(folder: Path) -> list[str]:
    """A line for each of metrics.jsonl and events.jsonl that has damaged rows, which are left out; [] if none has."""
    return [note for note in (metrics.damage(folder), events.damage(folder)) if note]


def check_kinds(folder: Path) -> None:
    """Raise InputError if a name that a run writes is a folder where it writes a file, or the other way round."""
    wrong = [(folder / name, "a file") for name in FILES if (folder / name).exists() and not (folder / name).is_file()]
    wrong += [
        (folder / name, "a folder")
        for name in FOLDERS
        if os.path.lexists(folder / name) and not (folder / name).is_dir()
    ]
    for path, kind in wrong:
        came = "a folder" if path.is_dir() else "none" if kind == "a file" else "a file"
        raise InputError(
            f"{path}: expected {kind} of a run, it is {came}; move it away, or choose another --run.folder"
        )


def check_same_recipe(folder: Path, recipe: Recipe) -> None:
    """Raise InputError naming the first field in which the recipe differs from that of the run in `folder`.

    Fields of MAY_CHANGE are not compared, nor those of MAY_CHANGE_AFTER_NAN if not_finite.json is there. A field that
    recipe.json lacks, because it is newer than the run, counts as its default. `run.fresh` refuses any run. A run that
    has ended may get one extension more; without a run, none can be asked for.
    """
    path = folder / RECIPE
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder for the run; choose another --run.folder")
    check_kinds(folder)
    if not holds_run(folder):
        if recipe.run.extend:
            raise InputError(
                f"{folder} holds no run, and --run.extend goes on with one that has ended; train it first, without "
                "--run.extend"
            )
        return
    if recipe.run.fresh:
        raise InputError(f"{folder} holds a run already; choose another --run.folder, or drop --run.fresh to carry on")
    if path.exists():
        check_begun_with(folder, recipe, _read_recipe(path))


def check_begun_with(folder: Path, recipe: Recipe, saved: dict) -> None:
    """Raise InputError naming the first field in which a recipe differs from the saved one of the run in `folder`."""
    before = dict(_flat(_with_defaults(saved, recipe)))
    free = MAY_CHANGE | EXTENSIONS | (MAY_CHANGE_AFTER_NAN if (folder / NOT_FINITE).exists() else set())
    now = dict(_flat(json.loads(json.dumps(asdict(recipe)))))
    for field in ("name", *now, *before):
        old, new = before.get(field), now.get(field)
        if field not in free and old != new:
            longer = "; to train for longer, add --run.extend EPOCHS once it has ended" * (field == "optim.epochs")
            raise InputError(
                f"{folder} was begun with {field} {_spelt(old)}, now it is {_spelt(new)}; "
                f"repeat the command as it was, or choose another --run.folder{longer}"
            )
    _check_extensions(folder, recipe, before)


def _spelt(value: object) -> object:
    """A value as its flag takes it: of several numbers the numbers."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _check_extensions(folder: Path, recipe: Recipe, saved: dict[str, Any]) -> None:
    """Raise InputError unless the recipe has the extensions in recipe.json, or, of a run that has ended, one more."""
    before, now = _saved_extensions(saved, folder / RECIPE), extensions_of(recipe.run)
    if now == before:
        return
    if _differ_in_rate(before, now) and (folder / NOT_FINITE).exists() and ended(folder) is None:
        return
    if now[: len(before)] != before or len(now) > len(before) + 1:
        was = "was not extended" if not before else f"was extended by {', then by '.join(map(str, before))}"
        asked = ", then by ".join(map(str, now)) or "no epochs"
        flags = " ".join(f"{each.epochs:g}" for each in before)
        again = f"repeat --run.extend {flags} with its schedule and rate, " if before else ""
        again += "one number more extends it further" if before else "extend it once, then by the next number"
        raise InputError(f"{folder} {was}, now --run.extend asks for {asked}; {again}")
    done = ended(folder)
    if done is None:
        raise InputError(
            f"{folder} has not ended, and --run.extend {now[-1].epochs:g} goes on from the end; repeat the command "
            "as it was until the run is finished"
        )
    if "why" in done:
        raise InputError(
            f"{folder} ended early, after step {done.get('step', 0):,} ({done['why']}), and --run.extend goes on from "
            "the end; raise --run.stop-after, or leave it out, to train to the end first"
        )


def _differ_in_rate(before: Sequence[Extension], now: Sequence[Extension]) -> bool:
    """Whether two lists of extensions differ in the learning rate of the last one alone."""
    if not before or len(now) != len(before):
        return False
    return (*now[:-1], replace(now[-1], lr=before[-1].lr)) == tuple(before)


def _saved_extensions(saved: dict[str, Any], path: Path) -> tuple[Extension, ...]:
    lists = {name.removeprefix("run."): held for name in EXTENSIONS if isinstance(held := saved.get(name), list)}
    if len(lists) < len(EXTENSIONS) or not all(is_of(each, NUMBER) for each in lists["extend"]):
        raise InputError(f"{path}: run.extend is no list of numbers; restore it, or choose another --run.folder")
    extend, schedule, lr = (tuple(lists[name]) for name in ("extend", "extend_schedule", "extend_lr"))
    return extensions_of(Run(extend=extend, extend_schedule=schedule, extend_lr=lr))


def _read_recipe(path: Path) -> dict:
    """The fields in recipe.json. Raises InputError if it cannot be read, or holds no JSON object."""
    return read_object(path, "restore it, or choose another --run.folder")


def _lock(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        reason = f"{folder} is in use by another process; wait for it, or choose another --run.folder"
        raise InUse(reason) from None


def _with_defaults(saved: dict, part: Any) -> dict:
    """The saved fields of a dataclass, and the default of each field that was not saved."""
    filled = dict(saved)
    for field in fields(part):
        value = getattr(part, field.name)
        if is_dataclass(value) and isinstance(saved.get(field.name), dict):
            filled[field.name] = _with_defaults(saved[field.name], value)
        elif field.name not in saved and (field.default is not MISSING or field.default_factory is not MISSING):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            filled[field.name] = json.loads(json.dumps(asdict(default) if is_dataclass(default) else default))
    return filled


def _flat(part: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
