"""Weights that others released as a file: MAE's, SupMAE's, SimMIM's, BEiT's, DeiT's and timm's; our own exports.

What such files look like, as far as it matters here:

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
from models.pretrained.found import Found
from pipeline.errors import InputError

WEIGHTS, CONFIG = "model.safetensors", "config.json"
HOLDERS = "model", "state_dict"
WRAPPERS = "module.", "encoder."
RENAMED = {".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma"}
CONSTANT = "relative_position_index"


def read_safetensors(path: Path, config: Path | None = None) -> Found:
    """Weights in a .safetensors file; `config` is timm's config.json, which says how its images were normalised.

    Raises InputError for a file that is none.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    return _found(tensors, path, "safetensors", _normalisation(config))


def read_released(path: Path) -> Found:
    """Weights in a torch file; only tensors and plain types are unpickled, and the arguments of a command line.

    Raises InputError for anything else.
    """
    try:
        # MAE's trainer keeps its arguments, which run nothing; torch warns of others' pickles before it refuses them
        with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings(action="ignore"):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} does not end in a checksum as ours do, and is cut short, or holds more than tensors and plain "
            "types; it is not loaded"
        ) from error
    holder = next((name for name in HOLDERS if isinstance(held, dict) and isinstance(held.get(name), dict)), None)
    tensors = held if holder is None else held[holder]
    tensors = {n: t for n, t in tensors.items() if isinstance(t, Tensor)} if isinstance(tensors, dict) else {}
    if not tensors:
        raise InputError(f"{path} holds no tensors by name, neither itself nor under {' or '.join(HOLDERS)}")
    return _found(tensors, path, f"a released file, {holder}" if holder else "a released file")


def _found(tensors: dict[str, Tensor], path: Path, what: str, normalisation: Normalisation | None = None) -> Found:
    for wrapper in WRAPPERS:
        if any(name.startswith(f"{wrapper}blocks.") or name.startswith(f"{wrapper}encoder.") for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return Found(_timm_names(tensors), str(path), what, normalisation=normalisation)


def _timm_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """BEiT's and SimMIM's names as timm's and ours: LayerScale's factors, and one bias for queries, keys and values."""
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
        said = json.loads(config.read_text()).get("pretrained_cfg", {})
    except ValueError as error:
        raise InputError(f"{config} is not JSON ({error}); export again") from error
    return Normalisation(tuple(said["mean"]), tuple(said["std"])) if {"mean", "std"} <= said.keys() else None
