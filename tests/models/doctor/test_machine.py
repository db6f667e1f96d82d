"""What the system allows, read from planted trees, and what the doctor says about it."""

import math
from pathlib import Path

import pytest

from models.doctor import driver, limits
from models.doctor.disk import BLOCK, read_rates
from models.doctor.stages import machine
from pipeline.concurrency.cgroup import cpu_quota


def planted(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A tree like / with this process's cgroups and some files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"job/step/cpu.max": "max 100000", "job/cpu.max": "250000 100000", "cpu.max": "800000 100000",
      "job/step/memory.max": "8000000000", "job/memory.max": "max"}  # fmt: skip
V1 = {"cpu,cpuacct/box/cpu.cfs_quota_us": "150000", "cpu,cpuacct/box/cpu.cfs_period_us": "100000",
      "cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000",
      "memory/box/memory.limit_in_bytes": "4000000000",
      "memory/memory.limit_in_bytes": "9223372036854771712"}  # fmt: skip


@pytest.mark.parametrize(
    ("cgroup", "files", "cores", "memory"),
    [
        ("0::/job/step\n", V2, 2.5, 8_000_000_000),
        ("4:cpu,cpuacct:/box\n3:memory:/box\n1:name=systemd:/box\n", V1, 1.5, 4_000_000_000),
        ("4:cpu,cpuacct:/elsewhere\n3:memory:/elsewhere\n", V1, None, None),  # a container: the mount alone is there
        ("0::/\n", {"cpu.max": "400000 100000"}, 4.0, None),
        ("0::/\n", {}, None, None),
    ],
)
def test_the_fewest_cores_and_bytes_of_all_cgroups_count(tmp_path, cgroup, files, cores, memory):
    root = planted(tmp_path, cgroup, files)
    assert cpu_quota(root) == cores
    assert limits.cgroup_memory(root) == memory


def test_without_a_proc_nothing_is_limited(tmp_path):
    assert cpu_quota(tmp_path) is limits.cgroup_memory(tmp_path) is None
    assert limits.available_memory(tmp_path) > 0
    assert limits.free_bytes(tmp_path / "gone") is None


def test_memory_that_can_be_had_is_the_systems_own_figure(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  1024 kB\n")
    assert limits.available_memory(tmp_path) == 1024 * 1024


@pytest.mark.parametrize(("row", "result"), [
    (machine.usable_cores(8, None), "ok"), (machine.usable_cores(8, 2.5), "slow"), (machine.usable_cores(2, 4), "ok"),
    (machine.memory(64_000_000_000, None), "ok"), (machine.memory(64_000_000_000, 2_000_000_000), "slow"),
    (machine.locked(True, math.inf), "ok"), (machine.locked(True, 9999), "slow"), (machine.locked(False, 1), "skipped"),
    (machine.shared_memory(64 << 20, 8), "slow"), (machine.shared_memory(64 << 20, 1), "ok"),
    (machine.shared_memory(None, 8), "slow"), (machine.shared_memory(8 << 30, 8), "ok"),
])  # fmt: skip
def test_limits_are_judged(row, result):
    assert row.result == result
    assert bool(row.to_do) == (result == "slow")


def test_threads_that_would_be_throttled_are_told_their_number():
    assert "OMP_NUM_THREADS=2" in machine.usable_cores(8, 2.5).to_do


@pytest.mark.parametrize(("cuda", "version", "wheel", "result", "said"), [
    (True, "580.65.06", "13.0", "ok", ""), (True, "535.183", "12.6", "ok", ""),
    (False, "535.183", "13.0", "wrong", "580 or later"), (False, "580.65", "13.0", "wrong", "sees no GPU"),
    (False, "580.65", None, "wrong", "CPU build"), (False, None, "13.0", "skipped", ""),
])  # fmt: skip
def test_driver_and_wheel_are_compared(cuda, version, wheel, result, said):
    row = machine.wheel(cuda, version, wheel)
    assert row.result == result
    assert said in row.to_do


@pytest.mark.parametrize(("capability", "built", "result"), [
    ((9, 0), ["sm_75", "sm_80", "sm_90", "compute_120"], "ok"), ((8, 9), ["sm_80", "sm_90"], "ok"),
    ((12, 0), ["sm_90", "compute_90"], "slow"), ((7, 0), ["sm_75", "sm_90"], "wrong"),
])  # fmt: skip
def test_a_wheel_has_code_for_the_gpu_or_not(capability, built, result):
    assert machine.architecture(capability, built).result == result


def test_the_drivers_version_is_read_where_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "query", lambda *_: [])
    assert driver.driver_version(tmp_path) is None
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12.2.0\n"
    (tmp_path / "proc/driver/nvidia/version").write_text(text)
    assert driver.driver_version(tmp_path) == "580.65.06"


def test_packages_that_are_missing_or_of_other_versions_are_named(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["torch>=2", "ffcv_of_tomorrow"]\n')
    row = machine.versions(project)
    assert row.result == "slow"
    assert "not installed: ffcv_of_tomorrow" in row.figure
    assert machine.versions(project, ("ffcv_of_tomorrow",)).result == "wrong"
    project.write_text('[project]\ndependencies = ["torch<2"]\n')
    assert "where <2 is expected" in machine.versions(project).figure
    project.write_text('[project]\ndependencies = ["torch>=2"]\n')
    assert machine.versions(project).result == "ok"


def test_a_library_that_decodes_is_ok_and_one_that_does_not_is_wrong(monkeypatch):
    assert machine.library().result == "ok"
    monkeypatch.setattr(machine.libffcv, "decode", lambda *_: None)
    assert machine.library().result == "wrong"


def test_a_files_rates_are_measured_and_its_last_part_of_a_block_is_left_out(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * BLOCK + 7))
    rates = read_rates(path, limit_s=0.2)
    assert rates.disk > 0
    assert rates.cache > 0
    path.write_bytes(b"small")
    assert read_rates(path, limit_s=0.2).disk > 0
