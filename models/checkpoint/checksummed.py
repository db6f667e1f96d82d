"""Write and read a file of tensors and plain types that ends in its own SHA-256, which is verified when it is read."""

import errno
import hashlib
import os
import pickle
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

import torch

from models.records.run_folder import LAST, PREVIOUS
from pipeline.errors import InputError

NOT_WRITABLE = errno.EACCES, errno.EPERM, errno.EROFS
_PREFIX = b"sha256:"
_COMMENT_BYTES = len(_PREFIX) + 64


class Damaged(InputError):
    """The bytes of a file are not those that were written, so that an older checkpoint may do; not a disk error."""


def write(path: Path, state: dict) -> str:
    """Write a state and sync it to disk; -> its SHA-256 in hex.

    The file is a torch.save archive whose zip comment is the SHA-256 of all bytes before the comment: it is one file
    with its checksum, and plain `torch.load(path, weights_only=True)` reads it.

    Raises InputError if the disk refuses; no file is then left.
    """
    try:
        with open(path, "w+b") as file:
            torch.save(state, file)
            return _append_checksum(file)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        path.unlink(missing_ok=True)
        raise disk_error(path.parent, error) from error


def read(path: Path, digest: str | None = None) -> dict:
    """The state in a file, on the CPU, if its checksum is right and equals `digest` where given; no code is unpickled.

    Raises InputError if the file is missing or cannot be read, Damaged (a subclass) if a checksum is wrong or the file
    holds anything that would run code.
    """
    try:
        with open(path, "rb") as file:
            found = _verify(file, path)
            if digest not in (None, found):
                raise Damaged(f"{path} is of another save than the checkpoint that names it")
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot read checkpoint {path}: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise Damaged(f"{path} holds more than tensors and plain types; only a run's own checkpoints load") from error


def has_checksum(path: Path) -> bool:
    """Whether a file ends in a checksum as `write` appends it; the checksum is not verified."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _COMMENT_BYTES))
        return file.read().startswith(_PREFIX)


def disk_error(folder: Path, error: OSError | RuntimeError) -> InputError:
    """The InputError for a disk that did not take a checkpoint; says whether the folder holds one of before."""
    reason = error.strerror if isinstance(error, OSError) else _cause(error)
    before = any((folder / name).exists() for name in (LAST, PREVIOUS))
    held = "the one before is intact" if before else "there is none from before"
    todo = "make it writable" if reason in map(os.strerror, NOT_WRITABLE) else "free some space"
    return InputError(f"cannot save a checkpoint in {folder}: {reason}; {held}: {todo} and run again")


def _append_checksum(file: BufferedRandom) -> str:
    """Make the checksum the archive's zip comment, whose length is the last two bytes before it, and sync the file."""
    file.flush()
    file.seek(-2, os.SEEK_END)
    file.write(_COMMENT_BYTES.to_bytes(2, "little"))
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0, os.SEEK_END)
    file.write(_PREFIX + digest.encode())
    file.flush()
    os.fsync(file.fileno())
    return digest


def _verify(file: BinaryIO, path: Path) -> str:
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
    return digest.hexdigest()


def _cause(error: BaseException) -> str:
    """The text of the OSError behind an error, or the error's own first line if there is none."""
    last, current = error, error
    while current is not None:
        if isinstance(current, OSError) and current.strerror:
            return current.strerror
        last, current = current, current.__cause__ or current.__context__
    return str(last).splitlines()[0]
