"""Checkpoints that survive kills, full disks and flipped bits: tensors and JSON types, checked before they are used."""

import hashlib
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from pipeline.errors import InputError

LAST, PREVIOUS, PARTIAL, DAMAGED = "last.pt", "previous.pt", "last.pt.partial", "last.pt.damaged"
_PREFIX = b"sha256:"
_COMMENT_BYTES = len(_PREFIX) + 64


class Damaged(InputError):
    """A checkpoint whose bytes are not what was written: the one before may serve. Not a disk that cannot be read."""


def save(folder: Path, state: dict) -> Path:
    """Write `folder`/last.pt; the one before becomes previous.pt.

    A kill at any moment leaves a loadable last.pt: the new file is complete and on disk before it takes the name. It
    is a torch.save archive whose zip comment is the SHA-256 of all before it, so that file and checksum are one thing
    and plain `torch.load(path, weights_only=True)` reads it.

    Raises TypeError naming the key that is neither tensor nor JSON type, InputError if the disk refuses (the
    checkpoints before stay).
    """
    check_types(state, "state")
    partial, last = folder / PARTIAL, folder / LAST
    try:
        with open(partial, "w+b") as file:
            torch.save(state, file)
            _seal(file)
        if last.exists():
            _keep(last, folder / PREVIOUS)
        os.replace(partial, last)
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        partial.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) else _cause(error)
        raise InputError(
            f"cannot save a checkpoint in {folder}: {reason}; the one before is intact: free some space and run again"
        ) from error
    return last


def load(path: Path) -> dict:
    """The state in a checkpoint, on the CPU, if its checksum is right; only tensors and plain types are unpickled.

    Raises InputError if the file is missing or cannot be read, Damaged (one too) if its checksum is wrong or it holds
    anything that would run code.
    """
    try:
        with open(path, "rb") as file:
            _verify(file, path)
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot read checkpoint {path}: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise Damaged(f"{path} holds more than tensors and plain types; only a run's own checkpoints load") from error


def latest(folder: Path) -> tuple[dict, Path] | None:
    """The newest checkpoint that is whole: last.pt, else previous.pt with a warning on stderr; None where none is.

    A damaged last.pt is renamed last.pt.damaged, so that the next save does not put it in the good one's place.
    Raises InputError if there are checkpoints and all are damaged, or one cannot be read.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    found = [path for path in (last, previous) if path.exists()]
    for path in found:
        try:
            state = load(path)
        except Damaged as error:
            if path == found[-1]:
                raise InputError(
                    f"{folder} holds no whole checkpoint: {error}; delete the folder to begin anew"
                ) from error
            print(f"warning: {error}; going on from {previous}", file=sys.stderr)
            continue
        if path == previous and last in found:
            _set_aside(last)
        return state, path
    return None


def _seal(file: BinaryIO) -> None:
    """End the archive with its checksum: the zip comment, whose length is the archive's last two bytes."""
    file.flush()
    file.seek(-2, os.SEEK_END)
    file.write(_COMMENT_BYTES.to_bytes(2, "little"))
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0, os.SEEK_END)
    file.write(_PREFIX + digest.encode())
    file.flush()
    os.fsync(file.fileno())


def _verify(file: BinaryIO, path: Path) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _COMMENT_BYTES))
    comment = file.read()
    if not comment.startswith(_PREFIX):
        raise Damaged(f"{path} does not end in a checksum: cut short, or not a checkpoint of this trainer")
    file.seek(0)
    digest, left = hashlib.sha256(), size - _COMMENT_BYTES
    while left and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    if comment != _PREFIX + digest.hexdigest().encode():
        raise Damaged(f"{path} is damaged: its checksum does not fit its content")
    file.seek(0)


def _keep(last: Path, previous: Path) -> None:
    """Give `last` a second name in one atomic step; it keeps its own."""
    spare = previous.with_suffix(".pt.partial")
    spare.unlink(missing_ok=True)
    try:
        os.link(last, spare)
    except OSError:  # file systems without hard links
        shutil.copyfile(last, spare)
    os.replace(spare, previous)
    spare.unlink(missing_ok=True)  # rename does nothing where both names are one file already (a kill came here before)


def _set_aside(last: Path) -> None:
    try:
        os.replace(last, last.with_name(DAMAGED))
    except OSError:  # another rank was first, or the folder is read-only
        return


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cause(error: BaseException) -> str:
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error, last = error.__cause__ or error.__context__, error
    return str(last).splitlines()[0]


def check_types(value: object, key: str) -> None:
    if type(value) in (Tensor, nn.Parameter, bool, int, float, str, type(None)):
        return
    if isinstance(value, dict):
        for name, held in value.items():
            if type(name) not in (str, int):
                raise TypeError(f"{key} has a key {name!r} of type {type(name).__name__}; keys are str or int")
            check_types(held, f"{key}[{name!r}]")
    elif type(value) in (list, tuple):
        for index, held in enumerate(value):
            check_types(held, f"{key}[{index}]")
    else:
        raise TypeError(f"{key} is a {type(value).__name__}; a checkpoint holds tensors and JSON types only")
