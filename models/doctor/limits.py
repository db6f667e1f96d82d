"""Read what the system lets this process use: cores and memory by cgroup (v1 and v2), locked memory, /dev/shm.

cgroup_cores()      # 2.5, or None without a limit
"""

import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

NO_LIMIT = 1 << 60
"""cgroup v1 writes a limit of memory near 2^63 where there is none."""


def cgroup_cores(root: Path = Path("/")) -> float | None:
    """Return the cores that the process's cgroup and those above it allow, the fewest; None without a limit."""
    found = [_v2_cores(folder) for folder in _v2(root)] + [_v1_cores(folder) for folder in _v1(root, "cpu")]
    return min((cores for cores in found if cores is not None), default=None)


def cgroup_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that the process's cgroup and those above it allow; None without a limit."""
    files = [folder / "memory.max" for folder in _v2(root)]
    files += [folder / "memory.limit_in_bytes" for folder in _v1(root, "memory")]
    found = [int(text) for file in files if (text := _text(file)).isdigit()]
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
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _v2(root: Path) -> Iterator[Path]:
    """Yield the folder of this process in the unified hierarchy, and those above it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            yield from _upwards(root / "sys/fs/cgroup", path)


def _v1(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of this process in a controller's own hierarchy, and those above it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            for mount in {names, controller}:
                yield from _upwards(root / "sys/fs/cgroup" / mount, path)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield a cgroup's folder and those above it up to the mount; in a container the mount alone may be there."""
    folder = mount / path.lstrip("/")
    while folder != mount and mount in folder.parents:
        yield folder
        folder = folder.parent
    yield mount


def _v2_cores(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _v1_cores(folder: Path) -> float | None:
    quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
