"""Read files of weights that others have released (MAE, SupMAE, SimMIM, BEiT, DeiT, timm, ViTMAE), and our own exports.

The forms that are read:

    MAE, SupMAE, DeiT   {"model": {...}} with timm's names; MAE's own trainer adds optimiser, epoch and args
    SimMIM, BEiT        {"model": {...}}, in SimMIM's under "encoder."; biases of queries and values, none of keys
    timm, our exports   safetensors with timm's names; a folder has config.json beside it
    ViTMAE              safetensors with Hugging Face's names, as our export hf-vitmae
    others              dictionaries in dictionaries, whose keys are then parts of the names ("teacher.backbone.")

The names are brought to timm's in `names.py`.
"""

import json
import pickle
import warnings
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from models.encoder.patches import Normalisation
from models.pretrained.weights import Weights
from pipeline.errors import InputError

WEIGHTS, CONFIG = "model.safetensors", "config.json"
HOLDERS = "model", "state_dict"


def read_safetensors(path: Path, config: Path | None = None) -> Weights:
    """Weights in a .safetensors file.

    config  timm's config.json, which says how the images were normalised, and the classes; it may be missing

    Raises InputError for a file that is not of this format.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    stated = _config(config)
    classes = label_names(_json(header.get("classes", "null"), path)) or label_names(stated.get("label_names"))
    normed = stated.get("norm_pix_loss")  # ViTMAE's
    target = ("norm_pix" if normed else "pixel") if isinstance(normed, bool) else None
    return Weights(
        tensors, str(path), "safetensors", normalisation=_normalisation(stated), classes=classes, target=target
    )


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
    tensors = dict(_tensors(held if holder is None else held[holder]))
    if not tensors:
        raise InputError(f"{path} holds no tensors by name, neither itself nor under {' or '.join(HOLDERS)}")
    return Weights(tensors, str(path), f"a released file, {holder}" if holder else "a released file")


def label_names(found: object) -> tuple[str, ...] | None:
    """Class names as a file states them; None if it states none, or anything but a list of different strings."""
    names = tuple(found) if isinstance(found, list | tuple) else ()
    usable = names and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return names if usable else None


def _tensors(held: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dictionaries, under the keys that lead to them, joined by dots."""
    for key, value in held.items() if isinstance(held, dict) else ():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        else:
            yield from _tensors(value, f"{prefix}{key}.")


def _config(path: Path | None) -> dict:
    stated = _json(path.read_text(), path) if path is not None and path.exists() else {}
    if not isinstance(stated, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(stated).__name__}; export again")
    return stated


def _json(text: str, path: Path) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); export again") from error


def _normalisation(stated: dict) -> Normalisation | None:
    found = stated.get("pretrained_cfg")
    if not isinstance(found, dict) or not {"mean", "std"} <= found.keys():
        return None
    return Normalisation(tuple(found["mean"]), tuple(found["std"]))
