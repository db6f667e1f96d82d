"""Cores of a process beside the other ranks of its node: by affinity, Slurm, torchrun and cgroup; on planted trees."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.backends.staging_buffers import staging_buffers_for
from pipeline.concurrency import cores as counted
from pipeline.concurrency.cgroup import cpu_quota
from pipeline.concurrency.cores import decode_threads, own_cores

RUN = {"TORCHELASTIC_RUN_ID": "7"}


def planted(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A tree like / with this process's cgroups, and files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        (root / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / name).write_text(text)
    return root


def bound(monkeypatch, own: int, parent: int | None = None) -> None:
    """A machine on which this process, and the one that started it, are bound to so many cores."""
    sides = {0: own, os.getppid(): parent or own}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(sides[pid])))


@pytest.mark.parametrize(
    ("environment", "own", "parent", "cores", "why"),
    [
        ({}, 64, 64, 64, "64 by affinity"),
        (RUN | {"LOCAL_WORLD_SIZE": "1"}, 64, 64, 64, "64 by affinity"),
        (RUN | {"LOCAL_WORLD_SIZE": "8"}, 64, 64, 8, "64 for 8 ranks"),
        (RUN | {"LOCAL_WORLD_SIZE": "8"}, 4, 4, 1, "4 for 8 ranks"),  # more ranks than cores
        (RUN | {"LOCAL_WORLD_SIZE": "8"}, 32, 64, 8, "64 for 8 ranks"),  # each bound to the half beside its GPU
        (RUN | {"LOCAL_WORLD_SIZE": "8"}, 8, 64, 8, "8 by affinity"),  # each bound to cores of its own
        # one Slurm task a rank
        ({"LOCAL_WORLD_SIZE": "4", "SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "16"}, 16, 16, 16, "16 by affinity"),
        ({"LOCAL_WORLD_SIZE": "4", "SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "16"}, 64, 64, 16,
         "16 by SLURM_CPUS_PER_TASK"),  # not bound
        ({"LOCAL_WORLD_SIZE": "4", "SLURM_STEP_ID": "0", "SLURM_CPUS_ON_NODE": "48"}, 64, 64, 12, "48 for 4 ranks"),
        ({"LOCAL_WORLD_SIZE": "4", "SLURM_STEP_ID": "0", "SLURM_CPUS_ON_NODE": "48"}, 12, 12, 12, "12 by affinity"),
        # one Slurm task that is a torchrun; not bound, and with another task beside it
        (RUN | {"LOCAL_WORLD_SIZE": "4", "SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "32"}, 64, 64, 8,
         "32 by SLURM_CPUS_PER_TASK for 4 ranks"),
        # torchrun in a batch script, which has the cores of all eight tasks that were asked for
        (RUN | {"LOCAL_WORLD_SIZE": "8", "SLURM_CPUS_PER_TASK": "8"}, 64, 64, 8, "64 for 8 ranks"),
        ({"LOCAL_WORLD_SIZE": "2"}, 16, 16, 8, "16 for 2 ranks"),  # ranks that were started by hand
        ({"LOCAL_WORLD_SIZE": "", "SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "x"}, 16, 16, 16, "16 by affinity"),
    ],
)  # fmt: skip
def test_a_rank_has_its_share(monkeypatch, tmp_path, environment, own, parent, cores, why):
    bound(monkeypatch, own, parent)
    assert own_cores(environment, tmp_path) == (cores, why)


@pytest.mark.parametrize(
    ("quota", "ranks", "cores", "why"),
    [
        ("600000 100000", 1, 6, "6 by the cgroup's quota"),
        ("250000 100000", 1, 2, "2.5 by the cgroup's quota"),  # a third thread would stop all three
        ("50000 100000", 1, 1, "0.5 by the cgroup's quota"),
        ("1700000 100000", 4, 4, "17 by the cgroup's quota for 4 ranks"),
        ("max 100000", 4, 16, "64 for 4 ranks"),
        ("9900000 100000", 1, 64, "64 by affinity"),
    ],
)
def test_ranks_share_the_quota_of_their_container(monkeypatch, tmp_path, quota, ranks, cores, why):
    bound(monkeypatch, 64)
    root = planted(
        tmp_path, "0::/kubepods/pod/box\n", {"kubepods/pod/cpu.max": quota, "kubepods/pod/box/cpu.max": "max"}
    )
    assert own_cores(RUN | {"LOCAL_WORLD_SIZE": str(ranks)}, root) == (cores, why)


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000", "cpu.max": "max"}, 3.0),
        ("0::/a/b\n", {"a/b/cpu.max": "150000"}, 1.5),  # the period is 100 ms where it is not written
        ("0::/docker/7\n", {"cpu.max": "200000 100000"}, 2.0),  # in the container the mount alone is there
        ("0::/../other\n", {"cpu.max": "200000 100000"}, 2.0),  # of a namespace that was entered from outside
        ("0::/a\n", {"a/cpu.max": "nonsense"}, None),
        ("0::/a\n", {"a/cpu.max": "1000 0"}, None),
        ("2:cpu,cpuacct:/a\n0::/\n", {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000",
         "cpu,cpuacct/a/cpu.cfs_period_us": "100000", "cpu.max": "max"}, 4.0),  # both versions at once
        ("2:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None),
        ("no colon\n", {}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_the_least_quota_of_a_cgroup_and_those_above_it_counts(tmp_path, cgroup, files, quota):
    assert cpu_quota(planted(tmp_path, cgroup, files)) == quota


@pytest.mark.parametrize(("own", "threads"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 4), (7, 5), (8, 6), (64, 62)])
def test_two_cores_are_left_where_four_decode_and_a_given_number_wins(monkeypatch, own, threads):
    monkeypatch.setattr(counted, "cores", lambda: own)
    assert decode_threads() == threads
    assert decode_threads(3) == 3


def test_a_rank_pins_eight_buffers_at_most(monkeypatch):
    slots = [len(staging_buffers_for(1, threads, torch.device("cpu"))._free) for threads in (1, 8, 12, 16, 96)]
    assert slots == [4, 4, 6, 8, 8]


def test_a_process_says_its_own():
    code = "import json; from pipeline.concurrency.cores import own_cores; print(json.dumps(own_cores()))"
    environment = os.environ | {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    bind = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); {code}"
    done = subprocess.run([sys.executable, "-c", bind], env=environment, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)[0] == 1
