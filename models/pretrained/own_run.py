"""Read the encoder of a checkpoint of this trainer, sharded or not."""

from pathlib import Path

from models.checkpoint import save_load
from models.encoder.lora import is_factor, merged_state
from models.pretrained.grids import grid_of_recipe
from models.pretrained.weights import Weights
from pipeline.errors import InputError

EMA, ENCODER = "ema.module.", "encoder."


def read_run(path: Path) -> Weights:
    """The weights of a checkpoint's encoder, or of its moving average (EMA) if the run kept one; factors of low rank
    are merged into the weights that they adapt.

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
    if any(map(is_factor, tensors)):
        tensors, merged = merged_state(tensors, _scale(recipe, path))
        what += f", LoRA merged into {merged} weights"
    target = ((recipe.get("method") or {}).get("reconstruct") or {}).get("target")
    classes, grid = tuple(state.get("classes") or ()) or None, grid_of_recipe(recipe)
    return Weights(tensors, str(path), what, others, classes=classes, target=target, grid=grid, recipe=recipe)


def _scale(recipe: dict, path: Path) -> float:
    """The scale of factors of low rank, by the recipe of the run that trained them."""
    held = recipe.get("encoder") or {}
    try:
        return held["lora_alpha"] / held["lora_rank"]
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{path} holds factors of low rank, and its recipe no lora_alpha and lora_rank") from error
