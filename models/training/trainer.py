"""A run in progress: all that the loop reads and changes, and how it is set up."""

import os
from collections.abc import Callable, Generator, Sequence
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
from models.distributed.compile import compile_blocks, is_compiled, is_worth_compiling
from models.distributed.precision import precision
from models.distributed.process_group import World
from models.encoder.freeze import describe
from models.evaluate.set_validator import SetValidator
from models.method import Method
from models.optim.build import build_optimiser, load_moments
from models.optim.schedule import RunLength, describe_extension
from models.optim.update import FiniteGuard, GradientCheck
from models.records import events, metrics, run_folder
from models.records.failures import FailureLog
from models.reporting.collapse import CollapseWatch
from models.reporting.environment import numerics, write_environment
from models.reporting.journal import Journal
from models.reporting.pseudo_label_stats import PseudoLabelCounts
from models.reporting.terminal import headline
from models.tracking.follow import following
from models.training import warm_up
from models.training.best import BestValue, open_best
from models.training.liveness import HangTimeout, Heartbeat
from models.training.preflight import OpenRun, open_run
from pipeline.backends.select import BackendName, choose
from pipeline.errors import InputError
from pipeline.labels.hidden import Oracle
from pipeline.loader import Batches, Loader
from pipeline.open import open_backend
from pipeline.sampling.resolution import distinct_sizes, growth
from pipeline.train_data import AnyTrainData, TrainData, loader_spec


@final
@dataclass
class Training:
    """A run in progress: all that a step reads and changes.

    micro          micro-batches of a step on this rank
    method         the method; its parameters are DTensors if the run is sharded
    empty_method   a sharded run's method without weights, for `full_method`; None otherwise
    model          what computes the loss: the method, or DDP around it
    no_sync        context for the micro-batches before the last: DDP then exchanges gradients once a step
    autocast       context in which the loss is computed
    best           the best value of val so far, where the recipe names one (run.best)
    step           number of updates that are done
    """

    recipe: Recipe
    world: World
    folder: Path
    train_data: AnyTrainData
    validators: dict[str, SetValidator]
    length: RunLength
    micro: int
    method: Method
    empty_method: Method | None
    model: nn.Module
    no_sync: Callable[[], AbstractContextManager]
    autocast: torch.autocast
    optimiser: torch.optim.Optimizer
    journal: Journal
    guard: FiniteGuard
    gradient_check: GradientCheck
    saver: AsyncSaver
    hang_timeout: HangTimeout
    heartbeat: Heartbeat
    best: BestValue | None
    step: int

    @property
    def ended_early(self) -> bool:
        """Whether the run ends before its last step, as `run.stop_after` evaluations brought nothing better."""
        return self.step < self.length.total_steps and self.best is not None and self.best.exhausted(self.step)

    @property
    def over(self) -> bool:
        """Whether the last step is done, be it an early one."""
        return self.step == self.length.total_steps or self.ended_early

    def state(self) -> dict:
        """The content of a checkpoint, tensors and JSON types. A collective call."""
        return {
            "step": self.step,
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "journal": self.journal.state_dict(),
            "recipe": asdict(self.recipe),
            "classes": list(self.train_data.classes),
            "window": self.train_data.window,
            "data": self.train_data.fingerprint,
        }

    def evaluate(self) -> bool:
        """Evaluate on val, at the end of the run or of an extension on every file; -> whether val's value of `run.best`
        is the best so far. A collective call."""
        at_end = self.step in self.length.ends
        with self.paused():
            method = self.full_method()
            found = {name: each(method) for name, each in self.validators.items() if at_end or name == "val"}
            for name, values in found.items():
                self.journal.evaluation(self.step, name, values, self.validators[name].recalls)
        return self.best is not None and self.best.add(self.step, found["val"])

    def save(self, *, best: bool = False) -> None:
        """Copy the state, if all updates since the last save were finite, and write it to last.pt in the background.

        best  make it best.pt, too

        A collective call. Raises InputError if an update was not finite, or if the save before failed.
        """
        with self.paused():
            self.guard.check(self.folder)
            state, then = self.state(), partial(save_load.keep_best, self.folder) if best and self.world.main else None
            if self.recipe.run.shard:
                self.saver.save(sharded.split(state, main=self.world.main), then)
            elif self.world.main:
                self.saver.save(state, then)

    def full_method(self) -> Method:
        """The method with all its weights on this rank, to be evaluated. A collective call."""
        if self.empty_method is None:
            return self.method
        return fsdp.full_method(self.method, self.empty_method, self.world)

    def check(self) -> None:
        """Raise InputError if an update since the last check was not finite, or if the last save failed.

        Waits for the device. A collective call.
        """
        self.guard.check(self.folder)
        self.saver.check()

    def record_event(self, event: str, **fields: object) -> None:
        """Append an event to events.jsonl, on the main rank."""
        if self.world.main:
            events.append(self.folder, event, rank=0, node=events.NODE, **fields)

    def extensions(self) -> list[str]:
        """Describe each extension in a line: where it begins, and its learning rate."""
        length, recipe = self.length, self.recipe
        numbers = range(len(length.extensions))
        return [describe_extension(number, length, recipe.optim, recipe.data.batch) for number in numbers]

    def record_extensions(self) -> None:
        """Append an "extended" event for each extension that has none yet, or another rate since, on the main rank."""
        known = {row.get("step"): row for row in events.read(self.folder) if row["event"] == "extended"}
        for part in self.length.extensions:
            asked = asdict(part.asked)
            row = known.get(part.first, {})
            if any(row.get(name) != value for name, value in asked.items()):
                self.record_event("extended", step=part.first, steps=part.steps, **asked)

    def record_done(self) -> None:
        """Append the event of a run that has ended, with the number of its extensions, and why if it ended early."""
        early = {"why": self.best.why(), "stop_after": self.best.stop_after} if self.best and self.ended_early else {}
        self.record_event("done", step=self.step, extensions=len(self.length.extensions) or None, **early)

    def print_once(self, *lines: str | None) -> None:
        """Print the lines that are not None, on the main rank."""
        for line in lines if self.world.main else ():
            if line:
                print(line, flush=True)

    @contextmanager
    def paused(self) -> Generator[None]:
        """Leave what happens inside out of the measured speed, and allow it more time than a step."""
        with self.journal.paused(), self.hang_timeout.extended():
            yield


def prepare(
    recipe: Recipe, world: World, failures: FailureLog, ending: ExitStack, hang_timeout: HangTimeout
) -> Training:
    """Set up a run, from the last checkpoint in its folder if there is one. A collective call.

    ending  closes what the run opens, when the caller leaves it
    """
    found = open_run(recipe, world)
    train_data, checkpoint = found.inputs.train_data, found.checkpoint
    oracle = hidden_labels(train_data) if recipe.run.oracle else None
    claim_folder(found, recipe, world, ending)
    failures.run_began()
    method, empty_method, model = place(recipe, found.method.train(), world)
    optimiser = build_optimiser(method, recipe.optim)
    counts = PseudoLabelCounts(len(train_data.classes), oracle) if method.needs(recipe).strong else None
    start = checkpoint["step"] if checkpoint else 0
    journal = Journal(
        found.folder,
        found.inputs.length,
        world,
        log_steps=recipe.run.log_steps,
        pseudo_labels=counts,
        collapse=CollapseWatch(asdict(recipe.method), found.inputs.length) if counts else None,
        resumed=start,
    )
    ending.enter_context(closing(journal))
    best, lost = open_best(recipe.run, found.folder, found.inputs.length, world, start)
    if checkpoint:
        load_moments(optimiser, fsdp.shard_state(checkpoint["optimiser"], optimiser))
        journal.load_state_dict(checkpoint["journal"])
    save_as = partial(save_load.save_sharded, world=world) if recipe.run.shard else None
    saver = ending.enter_context(closing(AsyncSaver(found.folder, found.folder / metrics.FILE, save_as=save_as)))
    run = Training(
        recipe=recipe,
        world=world,
        folder=found.folder,
        **vars(found.inputs),
        method=method,
        empty_method=empty_method,
        model=model,
        no_sync=getattr(model, "no_sync", nullcontext),
        autocast=precision(recipe.run, world.device),
        optimiser=optimiser,
        journal=journal,
        guard=FiniteGuard(world),
        gradient_check=GradientCheck(),
        saver=saver,
        hang_timeout=hang_timeout,
        heartbeat=Heartbeat(found.folder, world.rank),
        best=best,
        step=start,
    )
    run.record_extensions()
    began = "resumed" if checkpoint else "started"
    run.record_event(began, step=start, ranks=world.size, numerics=numerics(world), **parameters(method))
    ending.enter_context(following(found.folder, recipe.run.track if world.main else None))
    print_headline(run, found.origin, [*found.notes, *([lost] if lost else [])])
    get_ready(run)
    return run


def get_ready(run: Training) -> None:
    """Find how many images fit, where run.device_images is auto, and compile ahead what the steps will call."""
    recipe, world, batches = run.recipe, run.world, run.train_data.batches
    trial = partial(warm_up.trial_of, run.method, recipe, run.autocast, len(run.train_data.classes))
    with run.hang_timeout.extended():
        if recipe.run.device_images == "auto":
            known = events.latest(run.folder, "device_images")
            run.micro, line = warm_up.fitting(trial(compiled=False), batches, run.length, world, known)
            run.record_event("fits", device_images=sum(batches) // world.size // run.micro)
            run.print_once(line)
        images = [part // world.size // run.micro for part in batches]
        run.print_once(warm_up.too_small_to_fill(run.method, recipe, sum(images), world.device))
        if is_compiled(run.method) and not recipe.run.shard:
            evaluated = run.validators["val"].batch
            for line in warm_up.compile_ahead(trial(compiled=True), *images, run.length, evaluated):
                run.print_once(line)


def claim_folder(found: OpenRun, recipe: Recipe, world: World, ending: ExitStack) -> None:
    """Lock the run folder and write recipe and environment into it, on the main rank; the others wait for that."""
    if world.main:
        ending.callback(os.close, run_folder.claim(found.folder, recipe))
        write_environment(found.folder, world)
    process_group.any_rank(True, world)


def place(recipe: Recipe, method: Method, world: World) -> tuple[Method, Method | None, nn.Module]:
    """Compile a method and move it to its device or shard it; -> `method`, `empty_method` and `model` of Training."""
    if is_worth_compiling(recipe.run.compile, method, world.device):
        compile_blocks(method, sizes=len(distinct_sizes(recipe.data)))
    if recipe.run.shard:
        empty_method = fsdp.without_weights(method)
        return method, empty_method, fsdp.shard(method, world)
    return method, None, process_group.wrap_ddp(method.to(world.device), world)


def print_headline(run: Training, origin: str | None, notes: Sequence[str]) -> None:
    """Print what begins: recipe, data, length and devices; where the weights come from; what the user should know."""
    train_data = run.train_data
    files = f"{train_data.source.n:,} images of {train_data.source.path}"
    files += f", {train_data.pools[0]:,} with a known label" if train_data.pools[0] else ""
    run.print_once(
        headline(run.recipe.name, files, train_data.batches, run.length, run.world, run.micro, run.step),
        origin,
        *run.extensions(),
        growth(run.length.own_steps, run.recipe.data),
        *describe(run.recipe.encoder, run.method.encoder, started=run.recipe.run.start is not None),
        None if run.method.balance is None else run.method.balance.describe(),
        run.method.batch_norm_note(),
        run.method.startup_note(),
        *notes,
    )


def parameters(method: Method) -> dict[str, int]:
    """How many parameters of a method train, and how many there are, its moving average left out."""
    held = [part for name, part in method.named_parameters() if not name.startswith("ema.")]
    trained = sum(part.numel() for part in held if part.requires_grad)
    return {"trained": trained, "parameters": sum(part.numel() for part in held)}


def open_loader(run: Training) -> Batches:
    """Open the loader of the run's batches from its step on."""
    recipe, world = run.recipe, run.world
    if not isinstance(run.train_data, TrainData):
        from pipeline.dense.train_data import DenseTrainData  # here, as in models.training.preflight

        assert isinstance(run.train_data, DenseTrainData)
        place = {"seed": recipe.run.seed, "rank": world.rank, "ranks": world.size, "micro": run.micro}
        return run.train_data.open_loader(recipe.data, world.device, step=run.step, **place)
    spec = loader_spec(
        run.train_data,
        recipe.data,
        run.method.needs(recipe),
        patch=recipe.encoder.patch,
        seed=recipe.run.seed,
        labels_only_steps=run.length.labels_only_steps,
        rank=world.rank,
        ranks=world.size,
        micro=run.micro,
        total_steps=run.length.own_steps,
    )
    backend = open_backend(
        replace(recipe.data, backend=choose_backend(run, run.train_data)), run.train_data.beton, world.device
    )
    return Loader(spec, backend, world.device, run.step, recipe.data.ahead, recipe.data.hang_timeout_s)


def choose_backend(run: Training, train_data: TrainData) -> BackendName:
    """The decoding back-end, as the main rank chooses it; recorded in events.jsonl for the next start."""
    data, before = run.recipe.data, events.latest(run.folder, "backend")
    choice = process_group.from_main(choose(data, train_data.beton, run.world.device, before), run.world)
    if data.backend == "auto" or before not in (None, choice.backend):
        run.print_once(choice.describe(before))
    run.record_event("decoding", backend=choice.backend, why=choice.why)
    return choice.backend


def hidden_labels(train_data: AnyTrainData) -> Callable[[Tensor], Tensor]:
    """A function of ids i64 [N] to their true labels i64 [N], for the report's counts; training does not call it.

    Raises InputError for images with masks, of which no label is hidden."""
    if not isinstance(train_data, TrainData):
        raise InputError(
            f"run.oracle reads hidden labels, and {train_data.source.path} hides none; leave --run.oracle out"
        )
    oracle = Oracle(train_data.beton)
    return lambda ids: torch.from_numpy(oracle.labels(ids.numpy()))
