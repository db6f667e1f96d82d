"""A real Slurm of three nodes for the tests that ask for one, and the command where there is none."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import local_slurm

ROOT = Path(__file__).parents[2]
collect_ignore_glob = [] if find_spec("submitit") else ["test_*.py"]  # a GPU machine that was made ready by hand


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Path]:
    """Three nodes, four cores and two pretended GPUs each; absent, the test skips, or fails where CI asks for it."""
    os.environ["PATH"] += ":/usr/sbin"
    if missing := [name for name in local_slurm.PROGRAMS if shutil.which(name) is None]:
        reason = f"no {', '.join(missing)} here: install slurm-wlm and munge"
        if os.environ.get("SHOTCRETE_NEEDS_SLURM"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("cluster")
    os.environ.update(local_slurm.up(folder, owner=os.getpid()), OMP_NUM_THREADS="1")
    yield folder
    local_slurm.down(folder)


@pytest.fixture
def command(tmp_path) -> Callable[..., str]:
    """command(*argv) is `python -m slurm.submit ARGV` where there is no Slurm; -> its output."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("git", "tar", "sh"):
        (programs / name).symlink_to(shutil.which(name))
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    own["PATH"] = str(programs)

    def call(*argv: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "slurm.submit", *argv], cwd=ROOT, env=own, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return call
