"""What the network sees: images on disk to a Batch of weak, strong and masked views."""

import contextlib
import hashlib
import os
import shutil
import time
from pathlib import Path

UNUSED_S = 30 * 86400


def _kernel_cache() -> Path:
    """Where compiled kernels are kept, one folder for each state of this package's sources.

    numba notices a change in a kernel's own file but not in the files of those that it calls: an edit, or a `git
    pull`, would leave it running old code.
    """
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "shotcrete" / f"kernels-{digest[:16]}"


def _use(cache: Path) -> None:
    """Note that these kernels are in use; where they are to be compiled first, remove those not used for 30 days.

    By age, not because their sources are others: checkouts, and the snapshots that jobs restart from, take turns, and
    each would compile anew. Who loses its folder all the same compiles again, and makes it again.
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
