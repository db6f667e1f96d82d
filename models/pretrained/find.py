"""Find the weights that run.start names, by what it is: a run, an exported folder, a file or a timm name."""

from pathlib import Path

from models.checkpoint import checksummed
from models.checkpoint.checksummed import Damaged
from models.pretrained.own_run import read_run
from models.pretrained.released import (
    CONFIG,
    OPEN_CLIP,
    TORCH_WEIGHTS,
    WEIGHTS,
    read_released,
    read_safetensors,
    with_config,
)
from models.pretrained.timm_name import is_timm_name, read_timm
from models.pretrained.weights import Weights
from models.records.run_folder import LAST, PREVIOUS
from pipeline.errors import InputError

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
        return (path / LAST).exists() or not any(
            (path / name).exists() for name in (WEIGHTS, TORCH_WEIGHTS, *OPEN_CLIP)
        )
    return path.name in (LAST, PREVIOUS) or (path.is_file() and checksummed.has_checksum(path))


def _file_in(folder: Path) -> Path:
    names = LAST, WEIGHTS, TORCH_WEIGHTS, *OPEN_CLIP
    for name in names:
        if (folder / name).exists():
            return folder / name
    if (folder / ADAPTER).exists():
        raise InputError(
            f"{folder} is an adapter, which holds no whole encoder; name its run, or what `python -m models.export "
            f"{folder} --to timm` makes of it"
        )
    raise InputError(f"cannot read checkpoint {folder}: Is a directory without {', '.join(names)}; name a file")
