"""Which kind of thing a run is to start from."""

from pathlib import Path

from models.checkpoint import checksummed
from models.checkpoint.checksummed import Damaged
from models.pretrained.found import Found
from models.pretrained.named import is_name, read_named
from models.pretrained.ours import read_run
from models.pretrained.released import CONFIG, WEIGHTS, read_released, read_safetensors
from models.records.run_folder import LAST
from pipeline.errors import InputError


def read(start: str) -> Found:
    """The weights that `start` names: a run folder, a checkpoint, an exported folder, a file, or a timm name.

    Raises InputError, in one line, for what is none of these or cannot be read.
    """
    path = Path(start)
    if not path.exists() and is_name(start):
        return read_named(start)
    if path.is_dir():
        path = _inside(path)
    if path.suffix == ".safetensors" and path.exists():
        return read_safetensors(path, path.with_name(CONFIG))
    try:
        return read_run(path)
    except Damaged:
        if checksummed.has_checksum(path):  # ours, and not what was written
            raise
        return read_released(path)


def _inside(folder: Path) -> Path:
    for name in (LAST, WEIGHTS):
        if (folder / name).exists():
            return folder / name
    raise InputError(f"cannot read checkpoint {folder}: Is a directory without {LAST} or {WEIGHTS}; name a file")
