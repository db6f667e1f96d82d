"""Files of what a target has to know: tensors and plain types, written whole, read without running code."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from models.training.whole import write_whole
from pipeline.errors import InputError

COMMANDS = {"pca": "python -m models.fit_pca", "vq": "python -m models.fit_vq"}


def check_out(out: str) -> Path:
    """The path to write to. Raises InputError, before anything is computed, if it is a folder or in none."""
    path = Path(out)
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--out: {path if path.is_dir() else path.parent} is {'a' if path.is_dir() else 'no'} folder")
    return path


def write(path: Path, kind: str, held: Mapping[str, object]) -> None:
    """Write what a target of this kind has to know; the file is there whole or not at all.

    Raises InputError if the disk refuses.
    """
    content = io.BytesIO()
    torch.save({"kind": kind, **held}, content)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def read(file: str | None, kind: str, patch: int | None = None) -> dict:
    """What `write` wrote. Raises InputError, with the command that makes such a file, if it is no file of this kind or
    was made for patches of another size."""
    held = plain(file, kind)
    if held.get("kind") != kind:
        raise InputError(f"{file} was not made by `{COMMANDS[kind]}`; make one for this target")
    if patch is not None and held["patch"] != patch:
        raise InputError(f"{file} is of patches of {held['patch']} pixels, the encoder's have {patch}; fit it again")
    return held


def plain(file: str | None, kind: str) -> dict:
    """Whatever named tensors and plain types a file holds. Raises InputError if it cannot be read, or holds more."""
    command = COMMANDS[kind]
    if file is None:
        raise InputError(f"method.reconstruct.target_file is None: make one with `{command}` and name it")
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"cannot read {file}: {why}; make it with `{command}`") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{file} is damaged or no file of `{command}`; make it again") from error
    return held if isinstance(held, dict) else {}
