"""What a run needs, opened, built and checked against each other, before anything is written into its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from models.evaluate.judge import Judge
from models.evaluate.knn import check_tokens
from models.method import Method, method_class
from models.recipe import Recipe
from models.start import load_encoder
from models.training import checkpoint, distributed, folder
from models.training.distributed import World
from models.training.precision import half
from models.training.schedule import Length, Pools, length
from pipeline.errors import InputError
from pipeline.task import Task, check_views, open_task


@final
@dataclass(frozen=True)
class Ready:
    """A run before its first step.

    judges  by name: "val", and "test" where the recipe has one
    micro   micro-batches of a step on each rank
    found   the state to carry on from; its method's part is loaded already
    origin  what was loaded from run.start, in a line
    """

    folder: Path
    task: Task
    judges: dict[str, Judge]
    length: Length
    micro: int
    method: Method
    found: dict | None
    origin: str | None


def ready(recipe: Recipe, world: World) -> Ready:
    """All that can be wrong about a run raises InputError here, before its folder is touched."""
    where, kind = run_folder(recipe), method_class(recipe)
    folder.check_same_recipe(where, recipe)
    check_attention(recipe, world)
    task = open_task(recipe.data, kind.needs(recipe))
    check_views(task, recipe.data, kind.needs(recipe), recipe.encoder.patch)
    files = {"val": recipe.data.val, "test": recipe.data.test}
    judges = {name: Judge(recipe, file, task.beton, world) for name, file in files.items() if file}
    steps = length(recipe.optim, Pools(*task.pools, *task.batches))
    micro = distributed.accumulation(task.batches, world.size, recipe.run.device_images)
    torch.manual_seed(recipe.run.seed)
    method, origin = kind(recipe, len(task.classes)), None
    if recipe.run.knn:
        check_tokens(method.judged, "avg", recipe.name)
    method.sized(task.beton.n, task.pools[1])
    found = None if recipe.run.fresh else checkpoint.latest(where)
    distributed.same(found[0]["step"] if found else 0, world, f"the step to carry on from in {where}")
    if found:
        state, path = found
        if state["data"] != task.fingerprint:
            raise InputError(f"{path} was trained on other data or another split than {task.beton.path} now holds")
        method.load_state_dict(state["method"])
    elif recipe.run.start:
        origin = load_encoder(method, recipe.run.start)
    return Ready(where, task, judges, steps, micro, method, found[0] if found else None, origin)


def check_attention(recipe: Recipe, world: World) -> None:
    """Raise InputError if the recipe asks for varlen attention where torch has none."""
    came = world.device.type, "bfloat16" if half(recipe.run, world.device) else "float32"
    if recipe.encoder.attention == "varlen" and came != ("cuda", "bfloat16"):
        raise InputError(
            f"encoder.attention is varlen, which runs on CUDA in half precision, got {' in '.join(came)}; choose sdpa"
        )


def run_folder(recipe: Recipe) -> Path:
    """Where a recipe's run lives."""
    return Path(recipe.run.folder or f"runs/{recipe.name.replace(':', '-')}")
