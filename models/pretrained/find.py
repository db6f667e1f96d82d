"""Find the weights that run.start names, by what it is: a run, an exported folder, a file or a timm name."""

import re
from pathlib import Path

from models.checkpoint import checksummed
from models.checkpoint.checksummed import Damaged
from models.pretrained.own_run import read_run
from models.pretrained.released import (
    CONFIG,
    FILES,
    INDEXES,
    OPEN_CLIP,
    TORCH_WEIGHTS,
    read_released,
    read_safetensors,
    read_shards,
    with_config,
)
from models.pretrained.timm_name import is_timm_name, read_timm
from models.pretrained.weights import Weights
from models.records.run_folder import LAST, PREVIOUS
from pipeline.errors import InputError

SHARD = re.compile(r"-\d+-of-\d+\.(safetensors|bin)$")
FOREIGN = {
    ".npz": "an archive of NumPy's, as JAX's are; timm has Google's ViTs by name: vit_base_patch16_224.augreg_in21k",
    ".gguf": "GGUF, which quantises weights; name those that it was made from",
    ".onnx": "ONNX, a graph; name the weights that it was exported from",
    ".msgpack": "Flax's; name the weights in .safetensors or torch's format",
    ".h5": "Keras's; name the weights in .safetensors or torch's format",
}
"""By its suffix, what a file is that cannot be read, and what to name instead."""
ADAPTER = "adapter.json"
"""The file by which a folder is an adapter's (models.pretrained.adapter)."""


def find_weights(start: str) -> Weights:
    """Read the weights that `start` names.

    find_weights("runs/mae-digits")            # or a checkpoint, a folder of models.export, a .pth or .safetensors file
    find_weights("vit_base_patch16_224.mae")   # a timm name

    Raises InputError, in one line, for a name or file that is none of these or cannot be read.
    """
    path = Path(start)
    if not path.exists() and is_timm_name(start):
        return read_timm(start)
    if path.is_dir():
        path = _file_in(path)
    if path.is_file():
        _check_whole(path)
    if path.name in INDEXES:
        return read_shards(path)
    if path.suffix == ".safetensors" and path.exists():
        return read_safetensors(path, path.with_name(CONFIG))
    try:
        return read_run(path)
    except Damaged:
        if checksummed.has_checksum(path):  # a checkpoint of this trainer whose bytes have changed
            raise
        found = read_released(path)
        return with_config(found, path.with_name(CONFIG)) if path.name in (TORCH_WEIGHTS, *OPEN_CLIP) else found


def is_run(path: Path) -> bool:
    """Say whether a path is a run's, damaged or not: a checkpoint, a folder with one, or one without other weights."""
    if path.is_dir():
        return (path / LAST).exists() or not any((path / name).exists() for name in FILES)
    return path.name in (LAST, PREVIOUS) or (path.is_file() and checksummed.has_checksum(path))


def _check_whole(path: Path) -> None:
    """Raise InputError for one shard of several, and for kinds of files that hold no weights of torch."""
    if SHARD.search(path.name):
        raise InputError(f"{path} is one part of several; name their folder, {path.parent}")
    if path.suffix.lower() in FOREIGN:
        raise InputError(f"{path} is {FOREIGN[path.suffix.lower()]}")


def _file_in(folder: Path) -> Path:
    names = LAST, *FILES
    for name in names:
        if (folder / name).exists():
            return folder / name
    if (folder / ADAPTER).exists():
        raise InputError(
            f"{folder} is an adapter, which holds no whole encoder; name its run, or what `python -m models.export "
            f"{folder} --to timm` makes of it"
        )
    raise InputError(f"cannot read checkpoint {folder}: Is a directory without {', '.join(names)}; name a file")
