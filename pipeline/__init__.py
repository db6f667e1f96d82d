"""From images on disk to what the network sees: a Batch of weak, strong and masked views.

The files at this level are the seams (`batch.py`, `spec.py`, `loader.py`) and the commands; everything else lies in a
room, whose `__init__.py` says what it answers. Read `loader.py` first.
"""

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

UNUSED_S = 30 * 86400
SHARED = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.juicefs", "fuse.sshfs", "fuse.weka",
    "gpfs", "lustre", "nfs", "nfs4", "panfs", "pvfs2", "smb3", "wekafs",
}  # fmt: skip
"""File systems of several machines: kernels would be compiled into and read from them by every node at once."""


def _file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Name the type of the file system that a path lies on, or would, "nfs4" say; empty where it is not known."""
    name, found, longest = str(path.resolve()), "", -1
    with contextlib.suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            mount = before.split()[4].replace("\\040", " ")
            if len(mount) >= longest and (name + "/").startswith(mount.rstrip("/") + "/"):
                longest, found = len(mount), after.split()[0]
    return found


def _kernel_cache() -> Path:
    """Name the folder of compiled kernels below the user's cache, one for each state of this package's sources.

    numba notices a change in a kernel's own file but not in the files of the kernels that it calls: with one folder for
    all states it would run old code after an edit or a `git pull`.
    """
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "shotcrete" / f"kernels-{digest[:16]}"


def _use(cache: Path) -> None:
    """Mark the folder as used now; where it is new, remove folders that were not used for 30 days.

    Folders of other sources are kept: checkouts, and the snapshots that jobs restart from, take turns, and each would
    compile again. A process whose folder is removed compiles again and makes a new one.
    """
    with contextlib.suppress(OSError):
        if cache.exists():
            os.utime(cache)
            return
        cache.mkdir(parents=True, exist_ok=True)
        for other in cache.parent.glob("kernels-*"):
            if time.time() - other.stat().st_mtime > UNUSED_S:
                shutil.rmtree(other, ignore_errors=True)


def _takes_files(folder: Path) -> bool:
    """Say whether a file can be made in a folder, or in the nearest one above it that is there."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False


def temporary_folder(name: str) -> Path | None:
    """Name a folder in this user's own part of the job's disk (SLURM_TMPDIR), else of the temporary folder (TMPDIR,
    /tmp), which is made; None where that is not possible.

    numba runs what it finds there, so a folder that others own or may write to is not used.
    """
    with contextlib.suppress(OSError):
        of_job = os.environ.get("SLURM_TMPDIR")
        base = of_job if of_job and _takes_files(Path(of_job)) else tempfile.gettempdir()
        mine = Path(base) / f"shotcrete-{os.getuid()}"
        mine.mkdir(mode=0o700, exist_ok=True)
        found = mine.lstat()
        if found.st_uid == os.getuid() and found.st_mode & 0o170022 == 0o040000 and _takes_files(mine):
            return mine / name
    return None


def _choose_cache() -> None:
    """Set NUMBA_CACHE_DIR to a folder that takes files: as given, else in the user's cache, else a temporary one.

    Where the user's cache is shared by the nodes of a cluster, it is a folder of this node, for the compilers of the
    GPU, too. Without any, numba would end on the first kernel with a traceback; the process ends here, in one line.
    """
    own = _kernel_cache()
    shared = _file_system(own)
    if shared in SHARED and (on_node := temporary_folder(own.name)) is not None:
        if not on_node.exists() and "NUMBA_CACHE_DIR" not in os.environ:  # said by the first process on the node
            print(f"compiled kernels are in {on_node.parent}, as {own.parent} is on {shared}", file=sys.stderr)
        own = on_node
        _keep_on_node(on_node.parent)
    given = Path(os.environ.get("NUMBA_CACHE_DIR") or own)
    chosen = given
    if not _takes_files(given):
        chosen = own if given != own and _takes_files(own) else temporary_folder(own.name)
        if chosen is None:
            print(
                f"error: compiled kernels need a folder to be kept in, and neither {given} nor {own} nor the temporary "
                "folder can be written; set NUMBA_CACHE_DIR to one that can",
                file=sys.stderr,
            )
            sys.exit(2)
        if given != own:
            print(f"NUMBA_CACHE_DIR {given} cannot be written; compiled kernels are in {chosen}", file=sys.stderr)
    os.environ["NUMBA_CACHE_DIR"] = str(chosen)
    if chosen != given or given == own:
        _use(chosen)


def _keep_on_node(folder: Path) -> None:
    """Keep what Triton and torch.compile compile in a folder of this node, but for those that have one of their own."""
    if not os.environ.get("TRITON_CACHE_DIR") and not os.environ.get("TRITON_HOME"):
        of_torch = os.environ.get("TORCHINDUCTOR_CACHE_DIR")  # which keeps its Triton kernels there
        os.environ["TRITON_CACHE_DIR"] = str(Path(of_torch or folder) / "triton")
    if not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")


_choose_cache()  # before numba is imported anywhere
