"""One run in progress: all that the loop reads and changes, and how it comes to be."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from models.blocks import compile_blocks
from models.evaluate.judge import Judge
from models.method import Method
from models.ready import open_run
from models.recipe import Recipe
from models.training import checkpoint, distributed, events, folder, pieces, shard
from models.training.distributed import World
from models.training.failed import FailureLog
from models.training.guard import Guard
from models.training.journal import METRICS, Journal
from models.training.optim import optimiser
from models.training.patience import Patience
from models.training.progress import headline
from models.training.pseudo import Tally
from models.training.schedule import Length
from models.training.writer import Writer
from pipeline.choose import Backend, choose
from pipeline.loader import Loader
from pipeline.open import open_backend
from pipeline.oracle import Oracle
from pipeline.sizes import distinct_sizes, growth
from pipeline.task import Task, feed


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
    outline: Method | None
    model: nn.Module
    optimiser: torch.optim.Optimizer
    journal: Journal
    guard: Guard
    writer: Writer
    patience: Patience
    heartbeat: events.Heartbeat
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
        """Copy what last.pt will hold, if every step since the last save was finite; it is written beside training."""
        with self.paused():
            self.guard.check(self.folder)
            state = self.state()
            if self.recipe.run.shard:
                self.writer.save(pieces.split(state, main=self.world.main))
            elif self.world.main:
                self.writer.save(state)

    def whole(self) -> Method:
        """The method with all its weights, to be evaluated. A collective call."""
        return self.method if self.outline is None else shard.whole(self.method, self.outline, self.world)

    def done(self, steps: int) -> None:
        """This many steps are done: show it, and hear what became of the save under way."""
        self.step = steps
        self.patience(steps)
        self.heartbeat(steps)
        self.writer.check()

    def note(self, event: str, **more: object) -> None:
        """Put an event into the run folder, once."""
        if self.world.main:
            events.note(self.folder, event, rank=0, node=events.NODE, **more)

    def say(self, *lines: str | None) -> None:
        """Print once, whatever the number of processes, what there is to say."""
        for line in lines if self.world.main else ():
            if line:
                print(line, flush=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For what is no training and takes longer than a step."""
        with self.journal.paused(), self.patience.longer():
            yield


def prepare(recipe: Recipe, world: World, failures: FailureLog, ending: ExitStack, patience: Patience) -> Training:
    """Everything before the first step, carried on from the run folder where it holds a checkpoint."""
    opened = open_run(recipe, world)
    known = oracle(recipe, opened.task)
    if world.main:
        ending.callback(os.close, folder.claim(opened.folder, recipe))
        folder.environment(opened.folder, world)
    distributed.agree(True, world)  # the others write into the folder, too, which now is there, and ours
    failures.began()
    method, outline, model = laid_out(recipe, opened.method.train(), world)
    stepper = optimiser(method, recipe.optim)
    tally = Tally(len(opened.task.classes), known) if method.needs(recipe).strong else None
    start = opened.found["step"] if opened.found else 0
    journal = Journal(opened.folder, opened.length, world, log_steps=recipe.run.log_steps, tally=tally, resumed=start)
    ending.enter_context(closing(journal))
    if opened.found:
        stepper.load_state_dict(shard.spread(opened.found["optimiser"], stepper))
        journal.load_state_dict(opened.found["journal"])
    files = f"{opened.task.beton.n:,} images of {opened.task.beton.path}"
    files += f", {opened.task.pools[0]:,} with a known label" if opened.task.pools[0] else ""
    put = partial(checkpoint.save_pieces, world=world) if recipe.run.shard else None
    writer = ending.enter_context(closing(Writer(opened.folder, opened.folder / METRICS, put=put)))
    run = Training(
        recipe=recipe,
        world=world,
        folder=opened.folder,
        task=opened.task,
        judges=opened.judges,
        length=opened.length,
        micro=opened.micro,
        method=method,
        outline=outline,
        model=model,
        optimiser=stepper,
        journal=journal,
        guard=Guard(world),
        writer=writer,
        patience=patience,
        heartbeat=events.Heartbeat(opened.folder, world.rank),
        step=start,
    )
    run.note("resumed" if opened.found else "started", step=start, ranks=world.size)
    run.say(headline(recipe.name, files, opened.task.batches, opened.length, world, opened.micro, start))
    run.say(opened.origin, growth(opened.length.total_steps, recipe.data), opened.method.remark())
    return run


def laid_out(recipe: Recipe, method: Method, world: World) -> tuple[Method, Method | None, nn.Module]:
    """A method on its device or devices, what `Training.whole` fills if they share it, and what gives the loss."""
    if recipe.run.compile == "on" or (recipe.run.compile == "auto" and world.device.type == "cuda"):
        compile_blocks(method, sizes=len(distinct_sizes(recipe.data)))
    if recipe.run.shard:
        outline = shard.outline(method)
        return method, outline, shard.shard(method, world)
    return method, None, distributed.wrap(method.to(world.device), world)


def loader(run: Training) -> Loader:
    """The run's batches from its step on."""
    recipe, world = run.recipe, run.world
    needs = run.method.needs(recipe)
    fed = feed(
        run.task,
        recipe.data,
        needs,
        patch=recipe.encoder.patch,
        seed=recipe.run.seed,
        labels_only_steps=run.length.labels_only_steps,
        rank=world.rank,
        ranks=world.size,
        micro=run.micro,
        total_steps=run.length.total_steps,
    )
    backend = open_backend(replace(recipe.data, backend=back_end(run)), run.task.beton, world.device)
    return Loader(fed, backend, world.device, run.step, recipe.data.ahead, recipe.data.patience_s)


def back_end(run: Training) -> Backend:
    """Who decodes from here on, by the main rank's word; said where it was chosen, and noted for the next start."""
    data, before = run.recipe.data, events.latest(run.folder, "backend")
    found = distributed.from_main(choose(data, run.task.beton, run.world.device, before), run.world)
    if data.backend == "auto" or before not in (None, found.backend):
        run.say(found.said(before))
    run.note("decoding", backend=found.backend, why=found.why)
    return found.backend


def oracle(recipe: Recipe, task: Task) -> Callable[[Tensor], Tensor] | None:
    """Hidden labels by id, for the report's tally and nothing else; None unless the recipe asks."""
    if not recipe.run.oracle:
        return None
    known = Oracle(task.beton)
    return lambda ids: torch.from_numpy(known.labels(ids.numpy()))
