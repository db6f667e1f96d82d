"""Read and write files of fitted targets: tensors and plain types, written whole, read without running code."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from pipeline.errors import InputError
from pipeline.store.atomic_write import check_writable, write_whole

COMMANDS = {"pca": "python -m models.masked.fit_pca", "vq": "python -m models.masked.fit_vq"}


class NoTarget(InputError):
    """The file of a target is missing or is another's; `kind` is the target's, `command` fits a new one."""

    def __init__(self, message: str, kind: str) -> None:
        self.kind, self.command = kind, COMMANDS[kind]
        super().__init__(f"{message} `{self.command}`")


def check_out(out: str) -> Path:
    """Return the path to write to. Raises InputError if it is a folder, or nothing can be written beside it."""
    path = Path(out)
    check_writable(path)
    return path


def write(path: Path, kind: str, held: Mapping[str, object]) -> None:
    """Write the state of a target of this kind; the file is written whole or not at all.

    Raises InputError if it cannot be written.
    """
    content = io.BytesIO()
    torch.save({"kind": kind, **held}, content)
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def read(file: str | None, kind: str, patch: int | None = None) -> dict:
    """Read what `write` wrote. Raises NoTarget if it is no file of this kind or is for patches of another size."""
    held = plain(file, kind)
    if held.get("kind") != kind:
        raise NoTarget(f"{file} is not of this target; make one with", kind)
    if patch is not None and held["patch"] != patch:
        raise NoTarget(f"{file} is of patches of {held['patch']} pixels, the encoder's have {patch}; fit it with", kind)
    return held


def plain(file: str | None, kind: str) -> dict:
    """Read a file of named tensors and plain types. Raises NoTarget if it cannot be read, or holds anything else."""
    if file is None:
        raise NoTarget("method.reconstruct.target_file is None; name one, made with", kind)
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise NoTarget(f"cannot read {file}: {error.strerror or error}; make it with", kind) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise NoTarget(f"{file} is damaged or no file of a target; make it with", kind) from error
    return held if isinstance(held, dict) else {}
