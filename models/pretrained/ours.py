"""Weights of a run of ours: its folder's last.pt, or any of its checkpoints, whole or in pieces."""

from pathlib import Path

from models.checkpoint import save_load
from models.pretrained.found import Found
from pipeline.errors import InputError

AVERAGE, ENCODER = "ema.module.", "encoder."


def read_run(path: Path) -> Found:
    """The encoder of a checkpoint, its moving average where the run kept one.

    Raises InputError if it cannot be read or holds no method; Damaged if it does not end in a valid checksum.
    """
    state = save_load.load(path)
    held = state.get("method")
    if not isinstance(held, dict):
        raise InputError(f"{path} is no checkpoint of a run: it holds no method; use a run's last.pt")
    prefix = AVERAGE if any(name.startswith(AVERAGE) for name in held) else ENCODER
    tensors = {name.removeprefix(prefix): tensor for name, tensor in held.items() if name.startswith(prefix)}
    beside = tuple(name for name in held if not name.startswith((AVERAGE, ENCODER)))
    recipe = state.get("recipe") or {}
    what = f"{recipe['name']}, step {state['step']}" if recipe.get("name") and "step" in state else "a run of ours"
    return Found(tensors, str(path), what + (", its average" if prefix == AVERAGE else ""), beside)
