"""Read weights that others have released as a file (MAE, SupMAE, SimMIM, BEiT, DeiT, timm), and our own exports.

The forms that are read:

    MAE, SupMAE, DeiT   {"model": {...}} with timm's names; MAE's own trainer adds optimiser, epoch and args
    SimMIM, BEiT        {"model": {...}}, in SimMIM's under "encoder."; biases of queries and values, none of keys
    timm, our exports   safetensors with timm's names; a folder has config.json beside it
"""

import json
import pickle
import warnings
from argparse import Namespace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.encoder.patches import Normalisation
from models.pretrained.weights import Weights
from pipeline.errors import InputError

WEIGHTS, CONFIG = "model.safetensors", "config.json"
HOLDERS = "model", "state_dict"
WRAPPERS = "module.", "encoder."
RENAMED = {".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma"}
CONSTANT = "relative_position_index"


def read_safetensors(path: Path, config: Path | None = None) -> Weights:
    """Weights in a .safetensors file.

    config  timm's config.json, which says how the images were normalised; it may be missing

    Raises InputError for a file that is not of this format.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    return _found(tensors, path, "safetensors", _normalisation(config))


def read_released(path: Path) -> Weights:
    """Weights in a torch file; tensors, plain types and an argparse.Namespace are unpickled, and nothing else.

    Raises InputError for a file that holds anything else, or no tensors.
    """
    try:
        # MAE's trainer saves its arguments as a Namespace, which runs no code; torch warns before it refuses a pickle
        with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings(action="ignore"):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} does not end in a checksum, so it is no checkpoint of this trainer, and is cut short, or "
            "holds more than tensors and plain types; it is not loaded"
        ) from error
    holder = next((name for name in HOLDERS if isinstance(held, dict) and isinstance(held.get(name), dict)), None)
    tensors = held if holder is None else held[holder]
    tensors = {n: t for n, t in tensors.items() if isinstance(t, Tensor)} if isinstance(tensors, dict) else {}
    if not tensors:
        raise InputError(f"{path} holds no tensors by name, neither itself nor under {' or '.join(HOLDERS)}")
    return _found(tensors, path, f"a released file, {holder}" if holder else "a released file")


def _found(tensors: dict[str, Tensor], path: Path, what: str, normalisation: Normalisation | None = None) -> Weights:
    for wrapper in WRAPPERS:
        if any(name.startswith(f"{wrapper}blocks.") or name.startswith(f"{wrapper}encoder.") for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return Weights(_timm_names(tensors), str(path), what, normalisation=normalisation)


def _timm_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of BEiT and SimMIM as timm's: LayerScale's factors, and one bias for queries, keys, values."""
    made = {}
    for name, tensor in tensors.items():
        for theirs, ours in RENAMED.items():
            name = name.replace(theirs, ours) if name.endswith(theirs) else name
        if name.endswith("attn.q_bias"):
            other = tensors[name.replace("q_bias", "v_bias")]
            made[name.replace("q_bias", "qkv.bias")] = torch.cat([tensor, torch.zeros_like(tensor), other])
        elif not name.endswith(("attn.v_bias", CONSTANT)):
            made[name] = tensor
    return made


def _normalisation(config: Path | None) -> Normalisation | None:
    if config is None or not config.exists():
        return None
    try:
        found = json.loads(config.read_text()).get("pretrained_cfg", {})
    except ValueError as error:
        raise InputError(f"{config} is not JSON ({error}); export again") from error
    return Normalisation(tuple(found["mean"]), tuple(found["std"])) if {"mean", "std"} <= found.keys() else None
