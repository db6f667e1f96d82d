"""Run the step of a run again that was not finite, and say where it broke.  python -m models.replay RUN

The run's folder is left as it is: the weights of before that step are reached in a copy, from the last checkpoint.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from tyro.conf import Positional

from models.checkpoint import save_load
from models.config.recipe import Recipe
from models.config.resolve import flags_of
from models.distributed import process_group
from models.load import restore_recipe
from models.method import StepInfo, seed_step
from models.records import events
from models.records.exit_codes import STOPPED
from models.records.failures import FailureLog
from models.records.json_file import read_object
from models.records.run_folder import NOT_FINITE, RECIPE
from models.training.liveness import HangTimeout
from models.training.trainer import Training, open_loader, prepare
from pipeline.batch import Batch
from pipeline.errors import InputError, command
from pipeline.flags import parse
from pipeline.text import count, some

TRAIN = Path(__file__).parents[1] / "train.py"
RESTORE = "restore it from a copy"
LONGEST_S = 7 * 24 * 3600.0
"""No step of a replay counts as hung: a debugger may hold it."""


@dataclass(frozen=True)
class Arguments:
    """Run the step that was not finite again, with anomaly detection, and say where it broke."""

    run: Positional[Path]
    """The folder of a run that stopped as its loss or gradient was not finite."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Where to compute; as the run did when absent."""


def main() -> int:
    """Replay, and print what was found. Raises InputError for a folder that holds no such step."""
    a = parse(Arguments, prog="python -m models.replay")
    step, recipe = broken_step(a.run, a.device)
    with tempfile.TemporaryDirectory(prefix="replay-") as scratch, ExitStack() as ending:
        folder = Path(scratch) / "run"
        recipe = replace(recipe, run=replace(recipe.run, folder=str(folder)))
        copy(a.run, folder)
        reach(recipe, step)
        for line in replayed(recipe, ending):
            print(line, flush=True)
    return 0


def broken_step(folder: Path, device: Literal["auto", "cpu", "cuda"] | None) -> tuple[int, Recipe]:
    """The number, from 0, of the step that was not finite, and the recipe by which one process repeats it.

    The recipe's micro-batches are those of all ranks of the run. Raises InputError where there is no such step, or
    where the run has gone beyond it.
    """
    if not (folder / RECIPE).exists():
        raise InputError(f"{folder}: expected the folder of a run, which holds {RECIPE}; found none")
    if not (folder / NOT_FINITE).exists():
        raise InputError(f"{folder} has no {NOT_FINITE}: no step of it was not finite, so there is none to replay")
    step = read_object(folder / NOT_FINITE, RESTORE).get("step")
    recipe = restore_recipe(read_object(folder / RECIPE, RESTORE), folder / RECIPE)
    if not isinstance(step, int):
        raise InputError(f"{folder / NOT_FINITE}: expected a step, a whole number, got {step!r}")
    found = save_load.latest(folder)
    if found and found[0]["step"] > step:
        raise InputError(
            f"{folder} went on to step {found[0]['step']} after step {step} was not finite; its weights of before "
            "that step are gone"
        )
    ranks = events.latest(folder, "ranks") or 1
    at_once = min(recipe.data.batch // ranks, recipe.run.images_at_once or recipe.data.batch)
    alone = {"devices": 1, "device_images": at_once, "shard": False, "compile": "off", "track": None, "stop_step": None}
    run = replace(recipe.run, **alone)
    return step, replace(recipe, run=run if device is None else replace(run, device=device))


def copy(folder: Path, scratch: Path) -> None:
    """Copy what a run needs to go on; checkpoints, which are replaced, never changed, as links where possible."""

    def place(source: str, target: str) -> None:
        try:
            if not source.endswith(".pt"):
                raise OSError
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    kept = shutil.ignore_patterns("report*", "tracking", "failed", "heartbeat", "lock", "events", "best.pt")
    shutil.copytree(folder, scratch, ignore=kept, copy_function=place)


def reach(recipe: Recipe, step: int) -> None:
    """Train the copy up to before `step`, by the same code as any run. Raises InputError if it does not get there."""
    folder = Path(str(recipe.run.folder))
    found = save_load.latest(folder)
    done = found[0]["step"] if found else 0
    origin = f"the checkpoint of step {done}" if found else "the start"
    print(f"step {step} of {recipe.name}: {count(step - done, 'step')} from {origin} to it", flush=True)
    if done == step:
        return
    until = replace(recipe, run=replace(recipe.run, stop_step=step))
    ended = subprocess.run([sys.executable, TRAIN, until.name, *flags_of(until)], stdout=subprocess.DEVNULL)
    if ended.returncode != STOPPED:
        raise InputError(f"step {step} was not reached again (train.py ended with {ended.returncode}); see above")


def replayed(recipe: Recipe, ending: ExitStack) -> Iterator[str]:
    """Compute the next step of the run in recipe.run.folder without an update; -> lines about what is not finite."""
    world = process_group.start(recipe.run)
    folder = Path(str(recipe.run.folder))
    hang_timeout = HangTimeout(folder, 0, 1, LONGEST_S)
    ending.enter_context(closing(hang_timeout))
    failures = ending.enter_context(FailureLog(folder, 0, 1))
    run = prepare(recipe, world, failures, ending, hang_timeout)
    if broken := [name for name, weight in run.method.named_parameters() if not weight.isfinite().all()]:
        yield f"weights      {count(len(broken), 'parameter')} not finite before the step: {some(broken)}"
    info, fine = StepInfo(run.step, run.length.labels_only(run.step)), True
    with ending.enter_context(open_loader(run)) as batches:
        for number in range(run.micro):
            batch = next(batches)
            seed_step(recipe.run.seed, run.step, number)
            lines = list(micro_batch(run, batch, info))
            fine &= not lines
            if lines:
                ids = [str(image) for image in ids_of(batch)]
                yield f"micro-batch {number + 1} of {run.micro}, images {some(ids, 8)}"
            yield from lines
    norm = torch.nn.utils.get_total_norm([p.grad for p in run.method.parameters() if p.grad is not None])
    if fine:
        told = "finite" if norm.isfinite() else "not finite, though each micro-batch's gradient is: their sum overflows"
        yield f"every loss and gradient is finite this time; gradient norm {norm:.4g} ({told}). What differs from the "
        yield "run: one process, no compiled graphs" + ("" if world.device.type == "cuda" else ", the CPU")


def micro_batch(run: Training, batch: Batch, info: StepInfo) -> Iterator[str]:
    """Forward and backward of a micro-batch with anomaly detection; -> lines, none if everything was finite."""
    first: list[str] = []
    handles = [module.register_forward_hook(_watch(name, first)) for name, module in run.method.named_modules() if name]
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with torch.autograd.detect_anomaly():
                with run.autocast:
                    loss = run.method(batch, info)
                if bad := [name for name, part in loss.parts.items() if not part.isfinite()]:
                    yield f"  loss       not finite: {', '.join(bad)}"
                if first:
                    yield f"  forward    first output that is not finite, of finite inputs: {first[0]}"
                (loss.total / run.micro).backward()
    except RuntimeError as error:
        yield f"  backward   {str(error).splitlines()[0]}"
        if made := [str(each.message) for each in told if "Traceback of forward call" in str(each.message)]:
            yield from (f"             {line}" for line in _own_lines(made[0]))
    finally:
        for handle in handles:
            handle.remove()
    lost = [name for name, p in run.method.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    if lost:
        yield f"  gradient   {count(len(lost), 'parameter')} not finite: {some(lost)}"


def ids_of(batch: Batch) -> list[int]:
    """The ids of a batch's images, labelled ones first."""
    return [image for part in batch.parts.values() for image in part.ids.tolist()]


def _watch(name: str, first: list[str]):
    def hook(module: nn.Module, inputs: tuple, output: object) -> None:
        if not first and isinstance(output, Tensor) and not output.isfinite().all():
            given = [each for each in inputs if isinstance(each, Tensor)]
            if all(each.isfinite().all() for each in given):
                largest = max((each.abs().max().item() for each in given if each.numel()), default=0.0)
                first.append(f"{name} ({type(module).__name__}), inputs up to {largest:.3g}")

    return hook


def _own_lines(traceback: str) -> list[str]:
    """The last three places of a traceback that lie in this project."""
    lines = traceback.splitlines()
    own = [n for n, line in enumerate(lines) if f'File "{TRAIN.parent}' in line and "site-packages" not in line]
    return [part.strip() for n in own[-3:] for part in lines[n : n + 2]]


if __name__ == "__main__":
    command(main)
