"""From images on disk to what the network sees: a Batch of weak, strong and masked views.

The files at this level are the seams (`batch.py`, `spec.py`, `loader.py`) and the commands; everything else lies in a
room, whose `__init__.py` says what it answers. Read `loader.py` first.
"""

import contextlib
import hashlib
import os
import shutil
import time
from pathlib import Path

UNUSED_S = 30 * 86400


def _kernel_cache() -> Path:
    """Name the folder of compiled kernels, one for each state of this package's sources.

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


_own = _kernel_cache()
if os.environ.setdefault("NUMBA_CACHE_DIR", str(_own)) == str(_own):  # before numba is imported anywhere
    _use(_own)
