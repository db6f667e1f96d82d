"""What the network sees: images on disk to a Batch of weak, strong and masked views."""

import hashlib
import os
from pathlib import Path


def _kernel_cache() -> Path:
    """Where compiled kernels are kept, one folder for each state of this package's sources.

    numba notices a change in a kernel's own file but not in the files of those that it calls: an edit, or a `git
    pull`, would leave it running old code.
    """
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "shotcrete" / f"kernels-{digest[:16]}"


os.environ.setdefault("NUMBA_CACHE_DIR", str(_kernel_cache()))  # before numba is imported anywhere
