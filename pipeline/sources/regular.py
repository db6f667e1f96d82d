"""Read regular files of a sensible size, and nothing else: a FIFO would be waited for, a device may have no end.

blob = read_regular(Path("photo.jpg"))
"""

import os
import stat
from io import FileIO
from pathlib import Path

from pipeline.errors import InputError

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


MOST_BYTES = 2 << 30  # of one file; a .beton holds no larger sample


def special(mode: int) -> str | None:
    """What a file with this st_mode is, "a FIFO" for one, or None if it is a regular file."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no regular file")


def open_regular(path: str | Path) -> FileIO:
    """Open a file for reading, unbuffered.

    Raises InputError if it is no regular file or larger than 2 GiB, and OSError if it cannot be opened.
    """
    _check(os.stat(path))  # before it is opened: that alone may do something to a device
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0)
    try:
        _check(os.fstat(file.fileno()))  # it may have been replaced meanwhile
    except InputError:
        file.close()
        raise
    return file


def _check(status: os.stat_result) -> None:
    if (kind := special(status.st_mode)) is not None:
        raise InputError(f"{kind}, expected a regular file")
    if status.st_size > MOST_BYTES:
        raise InputError(f"{status.st_size / 1e9:,.0f} GB, expected a file of at most {MOST_BYTES / 1e9:.0f} GB")


def read_regular(path: str | Path) -> bytes:
    """Read a file. Raises InputError if it is no regular file or too large, and OSError if it cannot be read."""
    with open_regular(path) as file:
        return file.readall()
