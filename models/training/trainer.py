"""One run in progress: all that the loop reads and changes, and how it comes to be."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from models.checkpoint import save_load, sharded
from models.checkpoint.async_save import AsyncSaver
from models.config.recipe import Recipe
from models.distributed import fsdp, process_group
from models.distributed.compile import compile_blocks
from models.distributed.process_group import World
from models.evaluate.judge import Judge
from models.method import Method
from models.optim.build import build_optimiser
from models.optim.schedule import RunLength
from models.optim.update import FiniteGuard
from models.records import events, metrics, run_folder
from models.records.failures import FailureLog
from models.reporting.environment import write_environment
from models.reporting.journal import Journal
from models.reporting.progress import headline
from models.reporting.pseudo_label_stats import Tally
from models.training.liveness import HangTimeout, Heartbeat
from models.training.preflight import open_run
from pipeline.backends.select import Backend, choose
from pipeline.labels.hidden import Oracle
from pipeline.loader import Loader
from pipeline.open import open_backend
from pipeline.sampling.resolution import distinct_sizes, growth
from pipeline.train_data import TrainData, loader_spec


@final
@dataclass
class Training:
    """One run in progress: all that a step reads and changes."""

    recipe: Recipe
    world: World
    folder: Path
    train_data: TrainData
    judges: dict[str, Judge]
    length: RunLength
    micro: int
    method: Method
    outline: Method | None
    model: nn.Module
    no_sync: Callable[[], AbstractContextManager]
    optimiser: torch.optim.Optimizer
    journal: Journal
    guard: FiniteGuard
    saver: AsyncSaver
    hang_timeout: HangTimeout
    heartbeat: Heartbeat
    step: int

    def state(self) -> dict:
        """What a checkpoint holds: tensors and JSON types. A collective call."""
        return {
            "step": self.step,
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "journal": self.journal.state_dict(),
            "recipe": asdict(self.recipe),
            "classes": list(self.train_data.classes),
            "data": self.train_data.fingerprint,
        }

    def save(self) -> None:
        """Copy what last.pt will hold, if every step since the last save was finite; it is written beside training."""
        with self.paused():
            self.guard.check(self.folder)
            state = self.state()
            if self.recipe.run.shard:
                self.saver.save(sharded.split(state, main=self.world.main))
            elif self.world.main:
                self.saver.save(state)

    def whole(self) -> Method:
        """The method with all its weights, to be evaluated. A collective call."""
        return self.method if self.outline is None else fsdp.full_method(self.method, self.outline, self.world)

    def done(self, steps: int) -> None:
        """This many steps are done: show it, and hear what became of the save under way."""
        self.step = steps
        self.hang_timeout(steps)
        self.heartbeat(steps)
        self.saver.check()

    def note(self, event: str, **more: object) -> None:
        """Put an event into the run folder, once."""
        if self.world.main:
            events.append(self.folder, event, rank=0, node=events.NODE, **more)

    def say(self, *lines: str | None) -> None:
        """Print once, whatever the number of processes, what there is to say."""
        for line in lines if self.world.main else ():
            if line:
                print(line, flush=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For what is no training and takes longer than a step."""
        with self.journal.paused(), self.hang_timeout.extended():
            yield


def prepare(
    recipe: Recipe, world: World, failures: FailureLog, ending: ExitStack, hang_timeout: HangTimeout
) -> Training:
    """Everything before the first step, carried on from the run folder where it holds a checkpoint."""
    opened = open_run(recipe, world)
    known = oracle(recipe, opened.train_data)
    if world.main:
        ending.callback(os.close, run_folder.claim(opened.folder, recipe))
        write_environment(opened.folder, world)
    process_group.any_rank(True, world)  # the others write into the folder, too, which now is there, and ours
    failures.run_began()
    method, outline, model = laid_out(recipe, opened.method.train(), world)
    stepper = build_optimiser(method, recipe.optim)
    tally = Tally(len(opened.train_data.classes), known) if method.needs(recipe).strong else None
    start = opened.found["step"] if opened.found else 0
    journal = Journal(opened.folder, opened.length, world, log_steps=recipe.run.log_steps, tally=tally, resumed=start)
    ending.enter_context(closing(journal))
    if opened.found:
        stepper.load_state_dict(fsdp.shard_state(opened.found["optimiser"], stepper))
        journal.load_state_dict(opened.found["journal"])
    files = f"{opened.train_data.beton.n:,} images of {opened.train_data.beton.path}"
    files += f", {opened.train_data.pools[0]:,} with a known label" if opened.train_data.pools[0] else ""
    save_as = partial(save_load.save_sharded, world=world) if recipe.run.shard else None
    saver = ending.enter_context(closing(AsyncSaver(opened.folder, opened.folder / metrics.FILE, save_as=save_as)))
    run = Training(
        recipe=recipe,
        world=world,
        folder=opened.folder,
        train_data=opened.train_data,
        judges=opened.judges,
        length=opened.length,
        micro=opened.micro,
        method=method,
        outline=outline,
        model=model,
        no_sync=getattr(model, "no_sync", nullcontext),  # under DDP: micro-batches but the last exchange no gradients
        optimiser=stepper,
        journal=journal,
        guard=FiniteGuard(world),
        saver=saver,
        hang_timeout=hang_timeout,
        heartbeat=Heartbeat(opened.folder, world.rank),
        step=start,
    )
    run.note("resumed" if opened.found else "started", step=start, ranks=world.size)
    run.say(headline(recipe.name, files, opened.train_data.batches, opened.length, world, opened.micro, start))
    run.say(opened.origin, growth(opened.length.total_steps, recipe.data), opened.method.startup_note())
    return run


def laid_out(recipe: Recipe, method: Method, world: World) -> tuple[Method, Method | None, nn.Module]:
    """A method on its device or devices, what `Training.whole` fills if they share it, and what gives the loss."""
    if recipe.run.compile == "on" or (recipe.run.compile == "auto" and world.device.type == "cuda"):
        compile_blocks(method, sizes=len(distinct_sizes(recipe.data)))
    if recipe.run.shard:
        outline = fsdp.without_weights(method)
        return method, outline, fsdp.shard(method, world)
    return method, None, process_group.wrap_ddp(method.to(world.device), world)


def loader(run: Training) -> Loader:
    """The run's batches from its step on."""
    recipe, world = run.recipe, run.world
    needs = run.method.needs(recipe)
    fed = loader_spec(
        run.train_data,
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
    backend = open_backend(replace(recipe.data, backend=back_end(run)), run.train_data.beton, world.device)
    return Loader(fed, backend, world.device, run.step, recipe.data.ahead, recipe.data.hang_timeout_s)


def back_end(run: Training) -> Backend:
    """Who decodes from here on, by the main rank's word; said where it was chosen, and noted for the next start."""
    data, before = run.recipe.data, events.latest(run.folder, "backend")
    found = process_group.from_main(choose(data, run.train_data.beton, run.world.device, before), run.world)
    if data.backend == "auto" or before not in (None, found.backend):
        run.say(found.said(before))
    run.note("decoding", backend=found.backend, why=found.why)
    return found.backend


def oracle(recipe: Recipe, train_data: TrainData) -> Callable[[Tensor], Tensor] | None:
    """Hidden labels by id, for the report's tally and nothing else; None unless the recipe asks."""
    if not recipe.run.oracle:
        return None
    known = Oracle(train_data.beton)
    return lambda ids: torch.from_numpy(known.labels(ids.numpy()))
