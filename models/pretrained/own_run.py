"""Read the encoder of a checkpoint of this trainer, sharded or not."""

from pathlib import Path

from models.checkpoint import save_load
from models.pretrained.grids import grid_of_recipe
from models.pretrained.weights import Weights
from pipeline.errors import InputError

EMA, ENCODER = "ema.module.", "encoder."


def read_run(path: Path) -> Weights:
    """The weights of a checkpoint's encoder, or of its moving average (EMA) if the run kept one.

    Raises InputError if it cannot be read or holds no method, Damaged if it does not end in a valid checksum.
    """
    state = save_load.load(path)
    held = state.get("method")
    if not isinstance(held, dict):
        raise InputError(f"{path} is no checkpoint of a run: it holds no method; use a run's last.pt")
    prefix = EMA if any(name.startswith(EMA) for name in held) else ENCODER
    tensors = {name.removeprefix(prefix): tensor for name, tensor in held.items() if name.startswith(prefix)}
    others = {name: tensor for name, tensor in held.items() if not name.startswith((EMA, ENCODER))}
    recipe = state.get("recipe") or {}
    what = f"{recipe['name']}, step {state['step']}" if recipe.get("name") and "step" in state else "a run"
    what += ", its average" if prefix == EMA else ""
    target = ((recipe.get("method") or {}).get("reconstruct") or {}).get("target")
    classes, grid = tuple(state.get("classes") or ()) or None, grid_of_recipe(recipe)
    return Weights(tensors, str(path), what, others, classes=classes, target=target, grid=grid)
