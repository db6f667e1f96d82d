"""A real Slurm of three nodes for the tests that ask for one."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import local_slurm


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
