"""Which disk is full: the run's, the temporary folder's, or that of compiled kernels. The standard library only."""

import errno
import os
import tempfile
import traceback
from pathlib import Path

DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
SPARE_BYTES = 1 << 20
KERNELS, TEMPORARY = ("/numba/",), ("/torch/_inductor/", "/triton/", "/tempfile.py")
"""Parts of the names of files whose functions write compiled kernels, and temporary files."""


def full_folder(error: OSError, run: Path) -> Path:
    """The folder in which the write failed that raised `error`.

    full_folder(error, Path("runs/mae-digits"))  # Path("/root/.cache/shotcrete/kernels-0")

    It is the folder of the file that the error names; where it names none, the folder to which the innermost known
    caller writes; else, where the run's disk has space and another of the three has not, that other one; else the
    run's.
    """
    if isinstance(error.filename, (str, bytes)):
        return Path(os.fsdecode(error.filename)).parent
    kernels, temporary = Path(os.environ.get("NUMBA_CACHE_DIR") or run), _temporary_folder(run)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        for parts, folder in ((KERNELS, kernels), (TEMPORARY, temporary)):
            if any(part in frame.filename for part in parts):
                return folder
    if error.errno == errno.ENOSPC and not _is_full(run):
        return next((folder for folder in (kernels, temporary) if _is_full(folder)), run)
    return run


def _temporary_folder(run: Path) -> Path:
    """The temporary folder; where there is none that can be written, the one that TMPDIR names."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return Path(os.environ.get("TMPDIR") or run)


def _is_full(folder: Path) -> bool:
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < SPARE_BYTES or (found.f_files > 0 and found.f_favail == 0)
