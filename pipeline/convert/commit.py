"""Write a data set beside its final names, read it back, and rename all of it at the end, the .beton first.

with writing(out, overwrite=False) as partial:
    written = write(partial, samples, capacity)
    read_back(partial, written, pool)
    commit(out, {manifest_path(out): text, names_path(out): names}, overwrite=False)

Whatever is killed when, a reader finds all of the old data set or all of the new one (pipeline.store.pending).
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import zlib
from collections.abc import Generator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.backends.libffcv import decode
from pipeline.convert.writer import Written
from pipeline.errors import InputError
from pipeline.labels import splits
from pipeline.store.atomic_write import sync_folder, write_synced
from pipeline.store.beton import Beton, open_beton
from pipeline.store.checksummed_json import content, parsed
from pipeline.store.manifest import manifest_path, read_manifest
from pipeline.store.pending import final_path, next_path, waiting
from pipeline.store.sample_names import names_path
from pipeline.store.sigbus import guard

NO_HARD_LINKS = errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL  # FAT and some network storage


def partial_path(path: Path) -> Path:
    """Where a .beton is written before it may have its name."""
    return path.with_name(path.name + ".partial")


def lock_path(path: Path) -> Path:
    """The empty file that the process that writes a .beton holds a lock on."""
    return path.with_name(path.name + ".lock")


def check_absent(out: Path, overwrite: bool) -> None:
    """Raise InputError if a .beton has this name already and may not be replaced."""
    if os.path.lexists(out) and not overwrite:
        raise InputError(f"{out} exists; choose another name, or replace it with --overwrite")


@contextmanager
def writing(out: Path, overwrite: bool) -> Generator[Path]:
    """The path to write `out` to. What is not committed is removed, and no second process may write it meanwhile.

    Raises InputError if another process is writing it, if it exists and may not be replaced, or if the disk refuses.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(out)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}") from None
    with lock:
        try:
            settle(out)
            check_absent(out, overwrite)  # another process may have written it since the caller looked
            yield partial_path(out)
        except OSError as error:
            raise InputError(f"{out} cannot be written: {error}") from error
        finally:
            for path in (partial_path(out), lock_path(out)):  # the lock last, while it is held
                with contextlib.suppress(OSError):
                    path.unlink()


def _locked(out: Path) -> BinaryIO:
    path = lock_path(out)
    while True:
        lock = path.open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        except BlockingIOError:
            lock.close()
            raise InputError(f"{out} is being written by another process; wait for it to end") from None
        except OSError as error:
            lock.close()
            if isinstance(error, FileNotFoundError):  # removed between the two looks, by its owner
                continue
            path.unlink(missing_ok=True)
            raise InputError(f"{out}: this storage locks no files ({error.strerror}); write to another disk") from None
        lock.close()  # its owner has ended and removed it since it was opened here


def settle(out: Path) -> None:
    """Clean up after a conversion to `out` that was killed: name what belongs to the .beton, and remove the rest."""
    partial_path(out).unlink(missing_ok=True)  # it may be a second name of the .beton
    left = waiting(out)
    if not left:
        return
    try:
        beton = open_beton(out)
    except InputError:
        beton = None
    for path in left:
        if beton is not None and _belongs(path, beton):
            path.replace(final_path(path))
        else:
            path.unlink()


def _belongs(path: Path, beton: Beton) -> bool:
    try:
        if final_path(path) == manifest_path(beton.path):
            return read_manifest(beton.path, path).digest == beton.digest
        if final_path(path) == names_path(beton.path):
            return hashlib.sha256(path.read_bytes()).hexdigest() == beton.manifest.names_sha256
        return content(path.read_bytes(), splits.FORMAT).get("beton") == beton.digest
    except (ValueError, OSError):  # an InputError is one
        return False


def read_back(partial: Path, written: Written, pool: Executor) -> None:
    """Read every sample of a file just written, and decode JPEG. Raises InputError if one is not what was meant to be
    written."""
    data = np.memmap(partial, np.uint8, mode="r").view(np.ndarray)
    guard(data, partial)

    def wrong(start: int) -> list[int]:
        some = range(start, min(start + 256, len(written.table)))
        return [i for i in some if not _whole(data, written, i)]

    for found in pool.map(wrong, range(0, len(written.table), 256)):
        if found:
            raise InputError(f"{partial}: sample {found[0]} came back damaged from the disk; check it, then run again")


def _whole(data: np.ndarray, written: Written, i: int) -> bool:
    start, size, image = int(written.table["offset"][i]), int(written.table["size"][i]), written.samples["image"][i]
    stored = data[start : start + size]
    if zlib.crc32(stored.data) != written.crc32[i]:
        return False
    return written.store != "jpeg" or decode(stored, int(image["height"]), int(image["width"])) is not None


def commit(out: Path, contents: Mapping[Path, bytes], overwrite: bool) -> None:
    """Give the file at `partial_path(out)` its name, and write what belongs to it, by final path, beside it.

    Raises InputError if a file of that name has appeared that may not be replaced; then it is left as it is.
    """
    written = partial_path(out).stat()
    try:
        for path, text in contents.items():
            write_synced(next_path(path), text)
        sync_folder(out.parent)
        _give_name(out, overwrite)
    except BaseException:
        if not (out.exists() and os.path.samestat(out.stat(), written)):
            for path in contents:
                with contextlib.suppress(OSError):
                    next_path(path).unlink()
        raise
    sync_folder(out.parent)
    for path in contents:
        next_path(path).replace(path)
    sync_folder(out.parent)


def _give_name(out: Path, overwrite: bool) -> None:
    partial = partial_path(out)
    if overwrite:
        partial.replace(out)
        return
    try:
        os.link(partial, out)  # unlike a rename it replaces nothing
    except FileExistsError:
        check_absent(out, overwrite)
        raise
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        check_absent(out, overwrite)
        partial.replace(out)
    else:
        partial.unlink()


def remove_stale_splits(beton: Beton) -> None:
    """Remove the splits that were made for another file, which had this one's name."""
    for name in splits.splits(beton):
        path = beton.path.with_name(f"{beton.path.stem}.split-{name}.json")
        try:
            found = parsed(path.read_bytes()) if path.is_file() else None
        except (OSError, ValueError):  # no split of ours
            continue
        if isinstance(found, dict) and isinstance(found.get("beton"), str) and found["beton"] != beton.digest:
            path.unlink()
