"""Read what the system lets this process use: memory by cgroup (v1 and v2), locked memory, /dev/shm.

cgroup_memory()      # 4294967296, or None without a limit
"""

import math
import os
import resource
from pathlib import Path

from pipeline.concurrency.cgroup import text_of, v1_folders, v2_folders

NO_LIMIT = 1 << 60
"""cgroup v1 writes a limit of memory near 2^63 where there is none."""


def cgroup_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that the process's cgroup and those above it allow; None without a limit."""
    files = [folder / "memory.max" for folder in v2_folders(root)]
    files += [folder / "memory.limit_in_bytes" for folder in v1_folders(root, "memory")]
    found = [int(text) for file in files if (text := text_of(file)).isdigit()]
    return min((limit for limit in found if limit < NO_LIMIT), default=None)


def locked_memory() -> float:
    """Return the bytes that this process may lock (ulimit -l); infinity without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def free_bytes(folder: Path) -> int | None:
    """Return the bytes that are free in a file system, /dev/shm say; None where the folder is not there."""
    try:
        stat = os.statvfs(folder)
    except OSError:
        return None
    return stat.f_bavail * stat.f_frsize


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that can be had without swapping, page cache included (MemAvailable)."""
    for line in text_of(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
