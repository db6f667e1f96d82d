"""Open and build what a run needs, and check it against each other, before anything is written into its folder."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from models.checkpoint import save_load
from models.config.extensions import extensions_of
from models.config.recipe import Recipe
from models.config.resolve import named
from models.distributed import process_group
from models.distributed.micro_batches import micro_batches
from models.distributed.precision import half
from models.distributed.process_group import World
from models.evaluate.knn import check_tokens
from models.evaluate.set_validator import SetValidator
from models.evaluate.validator import Validator
from models.factory import method_class
from models.masked.targets.file import NoTarget
from models.method import Method
from models.optim.schedule import Pools, RunLength, run_length
from models.pretrained import load_encoder
from models.pretrained.adapter import find_start
from models.records import metrics
from models.records.run_folder import LAST, RECIPE, check_begun_with, check_same_recipe, damaged_rows, folder_of
from models.reporting.environment import where_exactness_ends
from models.tracking import check_installed
from models.training.best import check_best
from pipeline.errors import InputError
from pipeline.sampling.sampler import shares
from pipeline.spec import spelt
from pipeline.train_data import AnyTrainData, TrainData, check_views, open_train_data

CLASSES = 1000
"""Classes of a method that is built to be checked where its data is not at hand."""


@final
@dataclass(frozen=True)
class Inputs:
    """The data of a run, and what follows from it.

    validators  by name: "val", and "test" where the recipe has one
    micro       micro-batches of a step on each rank
    """

    train_data: AnyTrainData
    validators: dict[str, SetValidator]
    length: RunLength
    micro: int


@final
@dataclass(frozen=True)
class OpenRun:
    """A run before its first step.

    checkpoint  the state to continue from, already loaded into `method`; None for a new run
    origin      one line about the weights loaded from run.start; None if there are none
    notes       lines about what is odd but no error: damaged rows in the folder, val or test being a copy of train
    """

    folder: Path
    inputs: Inputs
    method: Method
    checkpoint: dict | None
    origin: str | None
    notes: tuple[str, ...]


def open_run(recipe: Recipe, world: World) -> OpenRun:
    """Open the data, build the method and load its weights. A collective call.

    Raises InputError for whatever can be wrong about a run; its folder is not touched here.
    """
    folder = folder_of(recipe)
    check_same_recipe(folder, recipe)
    check_installed(recipe.run.track)
    check_attention(recipe, world)
    inputs = open_inputs(recipe, world)
    torch.manual_seed(recipe.run.seed)
    train_data = inputs.train_data
    method, origin = build_method(recipe, len(train_data.classes)), None
    check_batch_norm(recipe, method, train_data.batches, world.size)
    method.set_dataset_size(train_data.source.n, train_data.pools[1])
    method.set_label_counts(torch.from_numpy(train_data.label_counts))
    learned_from = {}
    if isinstance(train_data, TrainData):
        learned_from = method.set_training_file(train_data.beton, train_data.labels)
    inputs = replace(inputs, train_data=train_data.recognised_by(learned_from))
    found = None if recipe.run.fresh else save_load.latest(folder)
    process_group.check_same(found[0]["step"] if found else 0, world, f"the step to carry on from in {folder}")
    if found:
        state, path = found
        check_same_files(path, state["data"], learned_from)
        check_same_data(path, state["data"], inputs)
        check_checkpoint(path, state, recipe, inputs)
        load_weights(method, state, path)
    elif recipe.run.extend:
        raise InputError(
            f"{folder} holds no checkpoint any more, and --run.extend goes on from one; restore {LAST}, or choose "
            "another --run.folder"
        )
    elif recipe.run.start:
        origin = load_encoder(method, find_start(recipe.run.start), train_data.classes, recipe.run.start_normalisation)
    notes = [*notes_of_sets(inputs), *copies_of_train(inputs), *(damaged_rows(folder) if world.main else ())]
    if found and (note := where_exactness_ends(folder, world)):
        notes.append(note)
    if found and found[0]["step"] and world.main and not metrics.read(folder):
        notes.append(
            f"{folder} holds a checkpoint and no journal: curves and report begin at step {found[0]['step']:,}"
        )
    if not found and world.main and metrics.read(folder):
        notes.append(f"{folder} holds a journal and no checkpoint: the run begins again at its first step")
    return OpenRun(folder, inputs, method, found[0] if found else None, origin, tuple(notes))


def check_same_files(checkpoint: Path, before: dict, files: dict[str, str]) -> None:
    """Raise InputError if a file that a method learns from (`Method.set_training_file`) is not that of its
    checkpoint."""
    for name, digest in files.items():
        if before.get(name) != digest:
            raise InputError(
                f"{checkpoint} was trained on another file of {name} than is there now; restore that file, or choose "
                "another --run.folder"
            )


def check_checkpoint(checkpoint: Path, state: dict, recipe: Recipe, inputs: Inputs) -> None:
    """Raise InputError if a checkpoint is beyond the end of a run, or, without recipe.json, of another recipe."""
    if not (checkpoint.parent / RECIPE).exists():
        check_begun_with(checkpoint.parent, recipe, json.loads(json.dumps(state["recipe"])))
    last = inputs.length.total_steps
    if state["step"] > last:
        raise InputError(
            f"{checkpoint} is at step {state['step']:,}, and this run ends at {last:,}: it is of another run; restore "
            "the run's own, or choose another --run.folder"
        )


def load_weights(method: Method, state: dict, checkpoint: Path) -> None:
    """Load a checkpoint's weights. Raises InputError, in one line, if they are of another network."""
    try:
        method.load_state_dict(state["method"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(
            f"{checkpoint} is of another network than this run's ({reason}); restore the run's own, or choose another "
            "--run.folder"
        ) from error


def check_same_data(checkpoint: Path, before: dict, inputs: Inputs) -> None:
    """Raise InputError if the files of a run, or its split, are not those of its checkpoint.

    before  the fingerprint in the checkpoint; a file that it lacks, as it is older than the entry, is not compared
    """
    now = inputs.train_data.fingerprint
    for name, validator in inputs.validators.items():
        if before.get(name, now[name]) != now[name]:
            raise InputError(
                f"{checkpoint} was evaluated on another {name} file than {validator.source.path} now is, and one curve "
                "would mix both; restore that file, or choose another --run.folder"
            )
    if any(before.get(name) != digest for name, digest in now.items() if name not in inputs.validators):
        path = inputs.train_data.source.path
        raise InputError(f"{checkpoint} was trained on other data or another split than {path} now holds")


def notes_of_sets(inputs: Inputs) -> list[str]:
    """Say, each line once, what is odd about the training data and about the sets that a run is evaluated on."""
    evaluated = [line for validator in inputs.validators.values() for line in validator.notes()]
    return list(dict.fromkeys([*inputs.train_data.notes(), *evaluated]))


def copies_of_train(inputs: Inputs) -> list[str]:
    """A line for each file of the validators that has the same content as the training file."""
    train = inputs.train_data.source
    return [
        f"{validator.source.path} holds the same images as {train.path}: {name} measures what was learned from, not "
        "what is new to the network"
        for name, validator in inputs.validators.items()
        if validator.source.digest == train.digest
    ]


def check(recipe: Recipe, ranks: int) -> None:
    """Raise InputError for what `open_run` would refuse in a job of so many processes, as far as this machine can tell.

    Nothing is computed or written. Training data and weights to start from are not required to be here, as the job may
    see other disks.
    """
    check_same_recipe(folder_of(recipe), recipe)
    check_installed(recipe.run.track)
    classes = CLASSES
    if Path(recipe.data.root, recipe.data.train).exists():
        inputs = open_inputs(recipe, World(0, ranks, 0, torch.device("cpu")))
        classes = len(inputs.train_data.classes)
    with torch.device("meta"):
        method = build_method(recipe, classes)
    needs = method.needs(recipe)
    check_batch_norm(
        recipe, method, shares(recipe.data.batch, recipe.data.ratio, needs.labelled, needs.unlabelled), ranks
    )


def open_inputs(recipe: Recipe, world: World) -> Inputs:
    """Open the data of a recipe, and compute the length of the run and its micro-batches."""
    train_data, validators = _opened(recipe, world)
    if recipe.run.best is not None:
        check_best(recipe.run.best, validators["val"].names)
    digests = {name: validator.source.digest for name, validator in validators.items()}
    train_data = train_data.recognised_by(digests)
    length = run_length(recipe.optim, Pools(*train_data.pools, *train_data.batches), extensions_of(recipe.run))
    micro = micro_batches(train_data.batches, world.size, recipe.run.images_at_once)
    return Inputs(train_data, validators, length, micro)


def _opened(recipe: Recipe, world: World) -> tuple[AnyTrainData, dict[str, SetValidator]]:
    """Open what a recipe's method learns from, .beton files or images with masks or boxes, and what it is evaluated
    on."""
    needs = method_class(recipe).needs(recipe)
    files = {name: file for name, file in (("val", recipe.data.val), ("test", recipe.data.test)) if file}
    if needs.image_files:
        from models.evaluate.dense_sets import open_dense_validator  # here, as runs of .beton files do without
        from pipeline.dense.train_data import open_dense_train_data  # torchvision's transforms and detectors

        dense = open_dense_train_data(recipe.data, needs)
        return dense, {name: open_dense_validator(recipe, file, dense.found, world) for name, file in files.items()}
    train_data = open_train_data(recipe.data, needs)
    check_views(train_data, recipe.data, needs, recipe.encoder.patch)
    return train_data, {name: Validator(recipe, file, train_data.beton, world) for name, file in files.items()}


def build_method(recipe: Recipe, classes: int) -> Method:
    """The method of a recipe. Raises InputError, with the command to run, if its target is read from a missing file."""
    try:
        method = method_class(recipe)(recipe, classes)
    except NoTarget as error:
        command = f"{error.command} {_fit_arguments(recipe, error.kind)}"
        raise InputError(str(error).replace(error.command, command)) from error
    if recipe.run.knn or recipe.run.probe or recipe.run.rankme:
        check_tokens(method.eval_encoder, "avg", recipe.name)
    return method


def check_attention(recipe: Recipe, world: World) -> None:
    """Raise InputError if the recipe asks for varlen attention on a device or in a precision that has none."""
    came = world.device.type, "bfloat16" if half(recipe.run, world.device) else "float32"
    if recipe.encoder.attention == "varlen" and came != ("cuda", "bfloat16"):
        raise InputError(
            f"encoder.attention is varlen, which runs on CUDA in half precision, got {' in '.join(came)}; choose sdpa"
        )


def check_batch_norm(recipe: Recipe, method: Method, batches: tuple[int, int], ranks: int) -> None:
    """Raise InputError if the method has a batch norm that trains, and each of `ranks` has one image at a time.

    check_batch_norm(recipe, method, train_data.batches, world.size)

    batches  labelled and unlabelled images of a step over all ranks

    One image has no variance. A rank norms a micro-batch by the images of that micro-batch, labelled and unlabelled;
    steps on labels alone have as many. The method is put into training mode, in which a frozen norm stays as it is.
    """
    micro = micro_batches(batches, ranks, recipe.run.images_at_once)
    share = sum(batches) // ranks
    norms = [name for name, part in method.train().named_modules() if isinstance(part, _BatchNorm) and part.training]
    if share > micro or not norms:
        return
    if share == 1:
        cure = f"set --data.batch to {2 * ranks} or more" + (", or run fewer ranks" if ranks > 1 else "")
    else:
        least = next(images for images in range(2, share + 1) if share % images == 0)
        cure = f"set --run.device-images to {least} or more"
    split = f"{sum(batches)} images a step over {ranks} rank(s)" + (f" and {micro} micro-batches" if micro > 1 else "")
    raise InputError(
        f"{recipe.name} has batch norm ({norms[0]}), expected 2 images or more at once on each rank, got 1 ({split}); "
        f"{cure}"
    )


def _fit_arguments(recipe: Recipe, kind: str) -> str:
    """Arguments of the command that fits a recipe's target, with the recipe's images, size and patch."""
    data, patch, usual = recipe.data, recipe.encoder.patch, named(recipe.name)
    arguments = f"{Path(data.root, data.train)} --recipe {recipe.name}"
    size = spelt(data.size).replace(" x ", " ")  # as a flag takes it
    arguments += f" --size {size}" if data.size != usual.data.size else ""
    arguments += f" --patch {patch}" if patch != usual.encoder.patch else ""
    return f"{arguments} --out {recipe.method.reconstruct.target_file or Path(data.root, f'{kind}.pt')}"
