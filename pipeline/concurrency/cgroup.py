"""Find the cgroups of this process and the CPU time that they grant it, by version 1 and 2.

cpu_quota()      # 2.5, or None without a limit
"""

from collections.abc import Iterator
from pathlib import Path


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the cores that the process's cgroup and those above it allow, the fewest; None without a limit."""
    found = [_v2_cores(folder) for folder in v2_folders(root)] + [
        _v1_cores(folder) for folder in v1_folders(root, "cpu")
    ]
    return min((cores for cores in found if cores is not None), default=None)


def v2_folders(root: Path) -> Iterator[Path]:
    """Yield the folder of this process in the unified hierarchy, and those above it."""
    for number, _, path in _lines(root):
        if number == "0":
            yield from _upwards(root / "sys/fs/cgroup", path)


def v1_folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of this process in a controller's own hierarchy, and those above it."""
    for _, names, path in _lines(root):
        if controller in names.split(","):
            for mount in {names, controller}:
                yield from _upwards(root / "sys/fs/cgroup" / mount, path)


def text_of(path: Path) -> str:
    """Read a file without the white space around; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _lines(root: Path) -> list[list[str]]:
    lines = [line.split(":", 2) for line in text_of(root / "proc/self/cgroup").splitlines()]
    return [line for line in lines if len(line) == 3]


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield a cgroup's folder and those above it up to the mount; in a container the mount alone may be there."""
    folder = mount / path.lstrip("/")
    while folder != mount and mount in folder.parents:
        yield folder
        folder = folder.parent
    yield mount


def _v2_cores(folder: Path) -> float | None:
    quota, _, period = text_of(folder / "cpu.max").partition(" ")
    return _share(quota, period or "100000")


def _v1_cores(folder: Path) -> float | None:
    return _share(text_of(folder / "cpu.cfs_quota_us"), text_of(folder / "cpu.cfs_period_us"))


def _share(quota: str, period: str) -> float | None:
    """Divide; without a limit the quota is "max" (v2) or -1 (v1)."""
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None
