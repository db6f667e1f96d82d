"""Run a piece of Python in several gloo processes, as torchrun would start them."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.processes import forked, prints_into, worlds

ALONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run_ranks(script: str, size: int, *arguments: str, timeout_s: float = 120) -> list[str]:
    """The stdout of each rank; fails with the stderr of the first that does not exit with 0.

    The ranks are forked from one process that has imported torch: importing it takes each seconds.
    """
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(tempfile.mkdtemp(dir=root)) for _ in range(size)]
        ranks = [forked(_rank, script, arguments, *pair) for pair in zip(folders, worlds(size), strict=True)]
        until = time.monotonic() + timeout_s
        for rank in ranks:
            rank.join(max(0, until - time.monotonic()))
        for rank in ranks:
            rank.kill()
            rank.join()
        for folder, rank in zip(folders, ranks, strict=True):
            assert rank.exitcode == 0, (folder / "err").read_text()
        return [(folder / "out").read_text() for folder in folders]


def run_interpreters(script: str, size: int, timeout_s: float = 120) -> list[str]:
    """The same in Python interpreters of their own, which end as interpreters do; slower by seconds."""
    pipe = subprocess.PIPE
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script], env=os.environ | own | ALONE, stdout=pipe, stderr=pipe, text=True
        )
        for own in worlds(size)
    ]
    try:
        results = [rank.communicate(timeout=timeout_s) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, errors) in zip(ranks, results, strict=True):
        assert rank.returncode == 0, errors
    return [output for output, _ in results]


def _rank(script: str, arguments: tuple[str, ...], folder: Path, world: dict[str, str]) -> None:
    prints_into(folder)
    os.environ.update(world, **ALONE)
    sys.argv = ["-c", *arguments]
    import torch

    torch.set_num_threads(1)
    exec(compile(script, "<string>", "exec"), {"__name__": "__main__"})
