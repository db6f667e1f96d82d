"""Write a file whole or not at all: the one way in which anything but images and checkpoints is written.

write_whole(Path("report.html"), text)
"""

import contextlib
import os
import tempfile
import threading
from pathlib import Path

from pipeline.errors import InputError

TODO = "choose another place, or make it writable"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path`, have it on disk, then rename it to `path`; text becomes UTF-8.

    After a kill or on a full disk `path` is the file that was there before, or absent. Processes and threads that write
    one path at once do not mix: the last to finish is what remains. Raises OSError if the disk refuses.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        write_synced(partial, content)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):  # a disk that lets nobody write lets nobody remove
            partial.unlink()
        raise


def check_writable(path: Path, name: str = "--out") -> None:
    """Raise InputError if a file or folder cannot be made at `path`; to be called before what it holds is computed.

    check_writable(Path("predictions.csv"))  # "--out predictions.csv: ..." where it cannot be written

    A file without a name is opened in the folder and closed, which leaves no trace: permissions alone do not show
    whether a disk is read-only.
    """
    text = str(path).encode(errors="backslashreplace").decode()
    if not path.parent.is_dir():
        raise InputError(f"{name} {text}: expected an existing folder, {path.parent} is no folder")
    if path.is_dir():
        raise InputError(f"{name} {text} is a folder, expected a file to write")
    _check_takes_files(path.parent, f"{name} {text}")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{name} {text}: the file there is read-only; {TODO}")


def check_folder_writable(path: Path, name: str = "--out") -> None:
    """Raise InputError if a folder `path`, which may be there, cannot be made or takes no files.

    check_folder_writable(Path("predicted"))  # with all folders above it that are not there yet
    """
    text = str(path).encode(errors="backslashreplace").decode()
    there = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        raise InputError(f"{name} {text}: expected a folder, {there} is a file; name another")
    _check_takes_files(there, f"{name} {text}")


def _check_takes_files(folder: Path, asked: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"{asked}: nothing can be written in {folder} ({why}); {TODO}") from error


def write_synced(path: Path, content: str | bytes) -> None:
    """Write a file in place and have its bytes on disk. Raises OSError if the disk refuses."""
    with path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk: a rename is lasting only then. Raises OSError if the disk refuses."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
