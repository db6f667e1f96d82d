"""Read files of weights that others have released, with what lies beside them, and our own exports.

The forms that are read:

    {"model": {...}}, {"state_dict": {...}}   MAE, SupMAE, DeiT, SimMIM, BEiT, MoCo v3, timm's trainer; of a moving
                                              average beside it ("model_ema", "state_dict_ema") the average is taken
    {"teacher": {...}, "student": {...}}      DINO, I-JEPA and others: the keys are then parts of the names
    a folder with config.json                 timm's, our exports', Hugging Face's; of large models in several files
    a folder with open_clip_config.json       open_clip's

The names are brought to timm's in `spellings.py` and `names.py`.
"""

import json
import pickle
import struct
import warnings
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from models.encoder.patches import Normalisation
from models.pretrained.grids import grid_of_recipe
from models.pretrained.weights import Weights
from models.records.json_file import read_object
from pipeline.errors import InputError

WEIGHTS, TORCH_WEIGHTS = "model.safetensors", "pytorch_model.bin"
INDEXES = f"{WEIGHTS}.index.json", f"{TORCH_WEIGHTS}.index.json"
"""What Hugging Face writes beside weights in several files: which tensor is where."""
OPEN_CLIP = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
FILES = WEIGHTS, TORCH_WEIGHTS, *INDEXES, *OPEN_CLIP
"""By which of these names a folder holds weights; the first that is there counts."""
CONFIG, PREPROCESSOR, OPEN_CLIP_CONFIG = "config.json", "preprocessor_config.json", "open_clip_config.json"
PROCESSOR = "processor_config.json"
ROUNDING = 1e-6
"""How far a rescale_factor of 1 / 255 may be off, as it is written in decimals."""
HOLDERS = "model_ema", "state_dict_ema", "model", "state_dict"
AVERAGES = {"model_ema": "model", "state_dict_ema": "state_dict"}


HARMLESS: list[Callable | tuple[Callable, str]] = [
    Namespace,  # MAE's, DINO's and BEiT's arguments
    (OrderedDict, "yacs.config.CfgNode"),  # SimMIM's settings: a dictionary of plain types
    (PurePosixPath, "pathlib.PosixPath"),
    (PurePosixPath, "pathlib._local.PosixPath"),
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    multiarray.scalar,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
]
"""Types beside the tensors whose unpickling runs no code: a loss as numpy's number, an output folder, settings."""
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError,
              IndexError, OverflowError, MemoryError, AssertionError, OSError, struct.error)  # fmt: skip
"""What torch and pickle raise for files that are none, or cut short."""


def read_safetensors(path: Path, config: Path | None = None) -> Weights:
    """Weights in a .safetensors file.

    config  timm's or Hugging Face's config.json, which says how the images were normalised, the classes, and what a
            decoder predicts; it may be missing

    Raises InputError for a file that is not of this format.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    found = with_config(Weights(tensors, str(path), "safetensors"), config)
    recipe = _json(header.get("recipe", "null"))
    if not isinstance(recipe, dict) or not {"encoder", "data"} <= recipe.keys():  # not one of our exports
        return found
    classes = label_names(_json(header.get("classes", "null"))) or found.classes
    return replace(found, classes=classes, grid=grid_of_recipe(recipe), recipe=recipe)


def read_shards(index: Path) -> Weights:
    """Weights in several files of a folder, as its index lists them, with the config.json beside.

    Raises InputError for an index that is none, a file that is not there, and a tensor that its file does not hold.
    """
    listed = _config(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(each, str) for each in listed.values()):
        raise InputError(f'{index}: expected the files of all tensors under "weight_map", found none')
    tensors: dict[str, Tensor] = {}
    names = sorted(set(listed.values()))
    for name in names:
        path = index.parent / Path(name).name
        if not path.is_file():
            raise InputError(f"{index} lists {name}, which is not there; bring all {len(names)} files")
        tensors |= (read_safetensors(path) if path.suffix == ".safetensors" else read_released(path)).tensors
    if lost := sorted(listed.keys() - tensors.keys()):
        raise InputError(f"{index} lists {lost[0]}, which {listed[lost[0]]} does not hold")
    return with_config(Weights(tensors, str(index.parent), f"{len(names)} files"), index.with_name(CONFIG))


def with_config(found: Weights, path: Path | None) -> Weights:
    """Return weights with what config.json says beside them, and Hugging Face's preprocessor_config.json beside that,
    or open_clip's config.

    Raises InputError if one of them is no JSON object.
    """
    stated = _config(path)
    shown = {} if path is None else _preprocessor(path)
    clip = {} if path is None or stated else _config(path.with_name(OPEN_CLIP_CONFIG))
    architecture = stated.get("architecture")
    return replace(
        found,
        normalisation=_normalisation(stated.get("pretrained_cfg"), "mean", "std", found.where)
        or _normalisation(stated, "mean", "std", found.where)
        or _of_preprocessor(shown, found.where)
        or _normalisation(clip.get("preprocess_cfg"), "mean", "std", found.where),
        classes=label_names(stated.get("label_names")) or _classes(stated.get("id2label")),
        target=_target(stated.get("norm_pix_loss")),
        config=stated or clip,
        architecture=architecture if isinstance(architecture, str) else None,
    )


def _preprocessor(path: Path) -> dict:
    """What Hugging Face's preprocessor_config.json says, or the part of processor_config.json that newer ones write."""
    held = _config(path.with_name(PREPROCESSOR)) or _config(path.with_name(PROCESSOR)).get("image_processor")
    return held if isinstance(held, dict) else {}


def _of_preprocessor(shown: dict, where: str) -> Normalisation | None:
    """The normalisation of pixels from 0 to 1 that Hugging Face's settings amount to; None where they say nothing.

    Levels from 0 to 255 are multiplied by rescale_factor, 1 / 255, unless do_rescale is off; then the mean is
    subtracted and the spread divided by, unless do_normalize is off.
    """
    found = _normalisation(shown, "image_mean", "image_std", where)
    if shown.get("do_normalize") is False:
        found = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    factor = 1.0 if shown.get("do_rescale") is False else shown.get("rescale_factor", 1 / 255)
    if found is None:
        return None
    if not isinstance(factor, int | float) or not factor > 0:
        raise InputError(f"{where}: its config says rescale_factor {factor!r:.40}, expected a number above 0")
    by = 255 * factor
    if abs(by - 1) < ROUNDING:
        return found
    (red, green, blue), (red_std, green_std, blue_std) = found.mean, found.std
    return Normalisation((red / by, green / by, blue / by), (red_std / by, green_std / by, blue_std / by))


def _classes(id2label: object) -> tuple[str, ...] | None:
    """The classes of Hugging Face's config, {"0": "tench", ...}; None for LABEL_0 and so on, which name none."""
    if not isinstance(id2label, dict) or list(id2label) != [str(number) for number in range(len(id2label))]:
        return None
    names = label_names(list(id2label.values()))
    return None if names == tuple(f"LABEL_{number}" for number in range(len(id2label))) else names


def read_released(path: Path) -> Weights:
    """Weights in a torch file; tensors, plain types and what trainers save beside them (`HARMLESS`) are unpickled, and
    nothing else.

    The arguments that MAE's trainer saves say what the decoder predicts.

    Raises InputError for a file that holds anything else, or no tensors.
    """
    try:
        # MAE's trainer saves its arguments as a Namespace, which runs no code; torch warns before it refuses a pickle
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings(action="ignore"):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        if "TorchScript" in str(error):
            raise InputError(
                f"{path} is a TorchScript archive (OpenAI's CLIP is one), which holds code, so it is not loaded; save "
                f"its weights: torch.save(torch.jit.load({str(path)!r}).state_dict(), 'clip.pth')"
            ) from error
        raise InputError(
            f"{path} does not end in a checksum, so it is no checkpoint of this trainer, and is cut short, or "
            "holds more than tensors and plain types; it is not loaded"
        ) from error
    parts = [name for name in HOLDERS if isinstance(held, dict) and isinstance(held.get(name), dict)]
    holder = next((name for name in parts if any(True for _ in _tensors(held[name]))), None)
    tensors = dict(_tensors(held if holder is None else held[holder]))
    held_nowhere = [name for name, tensor in tensors.items() if tensor.is_meta or tensor.layout is not torch.strided]
    if held_nowhere:
        raise InputError(f"{path}: {held_nowhere[0]} is a tensor without values or a sparse one; save plain tensors")
    if not tensors:
        raise InputError(f"{path} holds no tensors by name, neither itself nor under {' or '.join(HOLDERS)}")
    target = _target(getattr(held.get("args"), "norm_pix_loss", None))
    what = f"a released file, {holder}" if holder else "a released file"
    if (plain := AVERAGES.get(holder or "")) in held:
        what += f", the average of {plain}"
    arch = held.get("arch")  # timm's trainer and MoCo v3's
    return Weights(tensors, str(path), what, target=target, architecture=arch if isinstance(arch, str) else None)


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
    return {} if path is None else read_object(path, "export again", absent={})


def _json(text: str) -> object:
    """A value of a .safetensors file's metadata; None for what others wrote there that is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _normalisation(found: object, mean: str, std: str, where: str) -> Normalisation | None:
    """The normalisation that an object of a config states, None if it states none; raises InputError if it is none."""
    if not isinstance(found, dict) or not {mean, std} <= found.keys():
        return None
    if not all(_is_colour(found[each]) for each in (mean, std)) or min(found[std]) <= 0:
        raise InputError(
            f"{where}: its config says {mean} {found[mean]!r} and {std} {found[std]!r}, expected three numbers each, "
            f"{std} above 0"
        )
    return Normalisation(tuple(found[mean]), tuple(found[std]))


def _is_colour(value: object) -> bool:
    numbers = isinstance(value, list) and len(value) == 3
    return numbers and all(isinstance(each, int | float) and not isinstance(each, bool) for each in value)


def _target(norm_pix_loss: object) -> Literal["pixel", "norm_pix"] | None:
    return ("norm_pix" if norm_pix_loss else "pixel") if isinstance(norm_pix_loss, bool) else None
