"""One loop for every method.  `python train.py` lists the recipes; `python train.py semi_mae:digits --optim.lr 1e-3`.

The same command again carries on from the last checkpoint, at the exact step.
Exit codes: 0 trained to the end, 2 bad input, 75 stopped early on request (saved: run it again).
"""

import errno
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import models  # noqa: F401 -- first: it says how threads wait, and torch listens only once

# isort: split
import torch
from torch import nn

from models.evaluate.judge import Judge
from models.evaluate.story import tell
from models.method import Loss, Method, Moment
from models.packed import compile_blocks
from models.ready import ready, run_folder
from models.recipe import Recipe, catalogue, resolve
from models.training import checkpoint, distributed, folder
from models.training.distributed import World
from models.training.guard import Guard
from models.training.journal import Journal
from models.training.optim import clip, optimiser, set_rate
from models.training.precision import precision
from models.training.progress import headline
from models.training.pseudo import Tally
from models.training.schedule import Length, rate
from models.training.stop import AGREE_STEPS, DONE, STOPPED, Stop
from pipeline import rng
from pipeline.errors import InputError, command
from pipeline.loader import Loader
from pipeline.open import open_backend
from pipeline.oracle import Oracle
from pipeline.sizes import distinct_sizes, growth
from pipeline.task import Task, feed

DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


@final
@dataclass
class Training:
    """One run in progress: all that a step reads and changes."""

    recipe: Recipe
    world: World
    folder: Path
    task: Task
    judges: dict[str, Judge]
    length: Length
    micro: int
    method: Method
    model: nn.Module
    optimiser: torch.optim.AdamW
    journal: Journal
    guard: Guard
    lock: int | None
    step: int

    def state(self) -> dict:
        """What a checkpoint holds: tensors and JSON types. A collective call."""
        return {
            "step": self.step,
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "journal": self.journal.state_dict(),
            "recipe": asdict(self.recipe),
            "classes": list(self.task.classes),
            "data": self.task.fingerprint,
        }

    def save(self) -> None:
        """Write last.pt, if every step since the last save was finite."""
        with self.journal.paused():
            self.guard.check(self.folder)
            state = self.state()
            if self.world.main:
                checkpoint.save(self.folder, state)


def main() -> int:
    """List the recipes, or train one."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("python train.py RECIPE [--group.field VALUE ...]   (RECIPE --help shows every field)\n")
        print("\n".join(f"  {name:28s} {line}" for name, line in catalogue()))
        return DONE
    recipe = resolve(sys.argv[1], sys.argv[2:])
    world = distributed.start(recipe.run)
    try:
        return train(recipe, world)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = run_folder(recipe)
        raise InputError(f"cannot write in {where}: {error.strerror}; free some space and run again") from error
    finally:
        distributed.finish(world)


def train(recipe: Recipe, world: World) -> int:
    """Train a recipe from its last checkpoint, or from the start, to the end; -> exit code."""
    stop = Stop()  # before anything that takes time: a request is heard while data is opened, too
    try:
        run = prepare(recipe, world)
        try:
            return to_the_end(run, stop)
        finally:
            run.journal.close()
            if run.lock is not None:
                os.close(run.lock)
    finally:
        stop.close()


def to_the_end(run: Training, stop: Stop) -> int:
    """The loop; -> exit code."""
    recipe = run.recipe
    with loader(run) as batches:
        while run.step < run.length.total_steps:
            one_step(run, batches)
            last = run.step == run.length.total_steps
            if every(recipe.run.evaluate_steps, run.step) and not last:
                with run.journal.paused():
                    run.journal.evaluation(run.step, "val", run.judges["val"](run.method))
            asked = should_stop(run, stop)
            if asked or last or every(recipe.run.save_steps, run.step):
                run.save()
            if asked and not last:
                distributed.agree(True, run.world)  # no rank leaves while another saves: torchrun would end that one
                say(run.world, f"stopped after step {run.step} and saved; the same command carries on")
                return STOPPED
    tell(recipe, run.method, run.journal, run.task, run.judges, run.folder, run.world)
    return DONE


def prepare(recipe: Recipe, world: World) -> Training:
    """Everything before the first step, carried on from the run folder where it holds a checkpoint."""
    its = ready(recipe, world)
    known = oracle(recipe, its.task)
    lock = None
    if world.main:
        folder.claim(its.folder, recipe)
        lock = folder.lock(its.folder)
        folder.environment(its.folder, world)
    method = its.method.to(world.device).train()
    stepper = optimiser(method, recipe.optim)
    tally = Tally(len(its.task.classes), known) if method.needs.strong else None
    start = its.found["step"] if its.found else 0
    journal = Journal(its.folder, its.length, world, log_steps=recipe.run.log_steps, tally=tally, resumed=start)
    if its.found:
        stepper.load_state_dict(its.found["optimiser"])
        journal.load_state_dict(its.found["journal"])
    if recipe.run.compile == "on" or (recipe.run.compile == "auto" and world.device.type == "cuda"):
        compile_blocks(method, sizes=len(distinct_sizes(recipe.data)))
    model = distributed.wrap(method, world)
    files = f"{its.task.beton.n:,} images of {its.task.beton.path}"
    say(world, headline(recipe.name, files, its.task.batches, its.length.total_steps, world, its.micro, start))
    say(world, its.origin, growth(its.length.total_steps, recipe.data))
    common = its.folder, its.task, its.judges, its.length, its.micro, method
    return Training(recipe, world, *common, model, stepper, journal, Guard(world), lock, start)


def loader(run: Training) -> Loader:
    """The run's batches from its step on."""
    recipe, world = run.recipe, run.world
    needs = type(run.method).needs
    fed = feed(
        run.task, recipe.data, needs, recipe.encoder.patch, recipe.run.seed, run.length.labels_only_steps,
        world.rank, world.size, run.micro, run.length.total_steps,
    )  # fmt: skip
    backend = open_backend(recipe.data, run.task.beton, world.device)
    return Loader(fed, backend, world.device, run.step, recipe.data.ahead, recipe.data.patience_s)


def one_step(run: Training, batches: Loader) -> None:
    """One optimiser update: forward and backward of every micro-batch, clip, step, average, note."""
    recipe, step, micro = run.recipe, run.step, run.micro
    lr = rate(step, run.length, recipe.optim, recipe.data.batch)
    set_rate(run.optimiser, lr)
    now = Moment(step, run.length.labels_only(step))
    waited, losses, ids = batches.wait_s, [], []
    for number in range(micro):
        batch = next(batches)
        seed_step(recipe.run.seed, step, run.world.rank * micro + number)
        last = number == micro - 1
        with nullcontext() if last or run.world.size == 1 else run.model.no_sync():
            with precision(recipe.run, run.world.device):
                loss: Loss = run.model(batch, now)
            (loss.total / micro).backward()
        losses.append(loss)
        ids += [part.ids for part in (batch.labelled, batch.unlabelled) if part is not None]
        if loss.guesses is not None:
            run.journal.tally.add(loss.guesses)
    for parameter in run.method.resting(now):
        parameter.grad = None
    norm = clip(run.method.parameters(), recipe.optim.clip)
    total = torch.stack([loss.total.detach() for loss in losses]).mean()
    run.guard.step(run.optimiser, total, norm, torch.cat(ids), step)
    run.optimiser.zero_grad(set_to_none=True)
    run.method.after_step(step)
    run.step = step + 1
    parts = {name: torch.stack([loss.parts[name] for loss in losses]).mean() for name in losses[0].parts}
    waited = batches.wait_s - waited
    if run.journal.record(run.step, total, parts, norm, lr=lr, images=recipe.data.batch, wait_s=waited):
        run.guard.check(run.folder)


def seed_step(seed: int, step: int, chunk: int) -> None:
    """Drop-path and dropout draw from torch's generator: a pure function of step and slice, so resuming is exact."""
    torch.manual_seed(int(rng.keys(seed, step, chunk, rng.TORCH)[0]) >> 1)


def every(steps: int | None, step: int) -> bool:
    """Whether something that happens every so many steps is due after this one."""
    return steps is not None and step % steps == 0


def should_stop(run: Training, stop: Stop) -> bool:
    """Whether a signal, on any rank, or run.stop_step asks to stop here; ranks agree every few steps."""
    if run.step == run.recipe.run.stop_step:
        return True
    if run.world.size == 1:
        return bool(stop)
    return run.step % AGREE_STEPS == 0 and distributed.agree(bool(stop), run.world)


def oracle(recipe: Recipe, task: Task):
    """Hidden labels by id, for the report's tally and nothing else; None unless the recipe asks."""
    if not recipe.run.oracle:
        return None
    known = Oracle(task.beton)
    return lambda ids: torch.from_numpy(known.labels(ids.numpy()))


def say(world: World, *lines: str | None) -> None:
    """Print lines once, whatever the number of processes; those that are None not at all."""
    for line in filter(None, lines if world.main else ()):
        print(line, flush=True)


if __name__ == "__main__":
    command(main)
