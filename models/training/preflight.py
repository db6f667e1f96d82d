"""What a run needs, opened, built and checked against each other, before anything is written into its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from models.checkpoint import save_load
from models.config.recipe import Recipe
from models.config.resolve import named
from models.distributed import process_group
from models.distributed.micro_batches import micro_batches
from models.distributed.precision import half
from models.distributed.process_group import World
from models.evaluate.knn import check_tokens
from models.evaluate.judge import Judge
from models.method import method_class
from models.masked.targets.file import NoTarget
from models.method import Method
from models.optim.schedule import Pools, RunLength, run_length
from models.pretrained import load_encoder
from models.records.run_folder import check_same_recipe, folder_of
from pipeline.errors import InputError
from pipeline.train_data import TrainData, check_views, open_train_data

CLASSES = 1000
"""Of a method that is only built to be checked, where its data is not at hand."""


@final
@dataclass(frozen=True)
class Opened:
    """A run before its first step.

    judges  by name: "val", and "test" where the recipe has one
    micro   micro-batches of a step on each rank
    found   the state to carry on from; its method's part is loaded already
    origin  what was loaded from run.start, in a line
    """

    folder: Path
    train_data: TrainData
    judges: dict[str, Judge]
    length: RunLength
    micro: int
    method: Method
    found: dict | None
    origin: str | None


def open_run(recipe: Recipe, world: World) -> Opened:
    """All that can be wrong about a run raises InputError here, before its folder is touched."""
    where = folder_of(recipe)
    check_same_recipe(where, recipe)
    check_attention(recipe, world)
    train_data, judges, steps, micro = open_inputs(recipe, world)
    torch.manual_seed(recipe.run.seed)
    method, origin = build_method(recipe, len(train_data.classes)), None
    method.set_dataset_size(train_data.beton.n, train_data.pools[1])
    found = None if recipe.run.fresh else save_load.latest(where)
    process_group.check_same(found[0]["step"] if found else 0, world, f"the step to carry on from in {where}")
    if found:
        state, path = found
        if state["data"] != train_data.fingerprint:
            raise InputError(
                f"{path} was trained on other data or another split than {train_data.beton.path} now holds"
            )
        method.load_state_dict(state["method"])
    elif recipe.run.start:
        origin = load_encoder(method, recipe.run.start)
    return Opened(where, train_data, judges, steps, micro, method, found[0] if found else None, origin)


def check(recipe: Recipe, ranks: int) -> None:
    """What `open_run` would refuse in a job of so many processes, raised here as far as this machine can tell.

    Nothing is computed or written. Data that is not here may be there, and so may what the run starts from.
    """
    check_same_recipe(folder_of(recipe), recipe)
    classes = CLASSES
    if Path(recipe.data.root, recipe.data.train).exists():
        train_data, *_ = open_inputs(recipe, World(0, ranks, 0, torch.device("cpu")))
        classes = len(train_data.classes)
    with torch.device("meta"):
        build_method(recipe, classes)


def open_inputs(recipe: Recipe, world: World) -> tuple[TrainData, dict[str, Judge], RunLength, int]:
    """The data of a run, who judges it, its length, and the micro-batches of a step on each of the ranks."""
    needs = method_class(recipe).needs(recipe)
    train_data = open_train_data(recipe.data, needs)
    check_views(train_data, recipe.data, needs, recipe.encoder.patch)
    files = {"val": recipe.data.val, "test": recipe.data.test}
    judges = {name: Judge(recipe, file, train_data.beton, world) for name, file in files.items() if file}
    steps = run_length(recipe.optim, Pools(*train_data.pools, *train_data.batches))
    return (
        train_data,
        judges,
        steps,
        micro_batches(train_data.batches, world.size, recipe.run.device_images),
    )


def build_method(recipe: Recipe, classes: int) -> Method:
    """The method of a recipe. Raises InputError with the whole command if the file of its target is to be made."""
    try:
        method = method_class(recipe)(recipe, classes)
    except NoTarget as error:
        whole = f"{error.command} {arguments(recipe, error.kind)}"
        raise InputError(str(error).replace(error.command, whole)) from error
    if recipe.run.knn:
        check_tokens(method.eval_encoder, "avg", recipe.name)
    return method


def arguments(recipe: Recipe, kind: str) -> str:
    """What the command that fits a recipe's target is told: its images, cut as it cuts them."""
    data, patch, usual = recipe.data, recipe.encoder.patch, named(recipe.name)
    said = f"{Path(data.root, data.train)} --recipe {recipe.name}"
    said += f" --size {data.size}" if data.size != usual.data.size else ""
    said += f" --patch {patch}" if patch != usual.encoder.patch else ""
    return f"{said} --out {recipe.method.reconstruct.target_file or Path(data.root, f'{kind}.pt')}"


def check_attention(recipe: Recipe, world: World) -> None:
    """Raise InputError if the recipe asks for varlen attention where torch has none."""
    came = world.device.type, "bfloat16" if half(recipe.run, world.device) else "float32"
    if recipe.encoder.attention == "varlen" and came != ("cuda", "bfloat16"):
        raise InputError(
            f"encoder.attention is varlen, which runs on CUDA in half precision, got {' in '.join(came)}; choose sdpa"
        )
