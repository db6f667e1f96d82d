"""Versions, driver and wheel, libturbojpeg, cores, memory limits, /dev/shm, and how fast the data is read."""

import math
import os
import shutil
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import final

import numpy as np
import torch

from models.doctor import driver, limits
from models.doctor.disk import read_rates
from models.doctor.photographs import open_photographs
from models.doctor.stage import Context, Row, Stage, no_gpu
from pipeline.backends import libffcv
from pipeline.bench.verdict import need
from pipeline.concurrency.cgroup import cpu_quota
from pipeline.errors import InputError
from pipeline.executors.gpu_views import check_device
from pipeline.text import percent

ROOT = Path(__file__).parents[3]
GB, MB = 1e9, 1e6
LEAST_SHM = 1 << 30
"""NCCL's ranks of a node exchange through /dev/shm: tens of MB each, which a container's usual 64 MB do not hold."""
LEAST_LOCKED = 1 << 30
FREE = 0.9
"""Share of a GPU's memory below which something else is taken to use it."""
PINNED = 256 << 20
NEEDED = ("torch", "torchvision", "timm", "numpy", "numba", "tyro", "pillow", "tqdm")
"""Packages without which no run begins; the others are for conversion, launching, reports and some evaluations."""


@final
class Machine(Stage):
    """What the machine is, and what it allows."""

    place = 1
    deadline_s = 200

    def run(self, context: Context) -> Iterator[Row]:
        """Yield a row for each property of the machine."""
        yield versions(ROOT / "pyproject.toml")
        yield from gpu_rows(context.cuda)
        yield library()
        yield usable_cores(len(os.sched_getaffinity(0)), cpu_quota())
        yield memory(limits.available_memory(), limits.cgroup_memory())
        yield locked(context.cuda, limits.locked_memory())
        yield shared_memory(limits.free_bytes(Path("/dev/shm")), max(1, torch.cuda.device_count()))
        yield from data_rows(context)


def versions(project: Path, extra: tuple[str, ...] = ()) -> Row:
    """Compare the installed packages with the ranges that pyproject.toml states.

    extra  packages that are needed, too
    """
    from packaging.requirements import Requirement

    wanted = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    missing, other, found = [], [], []
    for text in wanted:
        requirement = Requirement(text)
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if requirement.name in ("torch", "torchvision", "timm", "numba", "numpy"):
            found.append(f"{requirement.name} {installed}")
        if not requirement.specifier.contains(installed.split("+")[0], prereleases=True):
            other.append(f"{requirement.name} {installed} where {requirement.specifier} is expected")
    figure = ", ".join([*found, *other, *([f"not installed: {' '.join(missing)}"] if missing else [])])
    if other or {*NEEDED, *extra} & {*missing}:
        return Row("versions", "wrong", figure, "run `make setup`")
    return Row(
        "versions",
        "slow" if missing else "ok",
        figure,
        "what needs the missing ones says so; `make setup` brings them" * bool(missing),
    )


def gpu_rows(cuda: bool) -> Iterator[Row]:
    """Yield rows on driver, wheel, memory in use, pinned memory and Triton."""
    yield wheel(cuda, driver.driver_version(), torch.version.cuda)
    if not cuda:
        for what in ("GPU architecture", "GPU memory", "pinned memory", "Triton"):
            yield no_gpu(what)
        return
    yield architecture(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())
    free, total = torch.cuda.mem_get_info()
    figure, used = f"{free / GB:.1f} of {total / GB:.1f} GB free", free < FREE * total
    to_do = "another process uses the GPU: see nvidia-smi" if used else ""
    values = {"free_gb": free / GB, "total_gb": total / GB}
    yield Row("GPU memory", "slow" if used else "ok", figure, to_do, values)
    yield pinned_rate()
    try:
        check_device(torch.device("cuda", 0))  # the kernels are compared here, before other stages use them
        yield Row(
            "Triton", "ok", f"starts, with {shutil.which('gcc') or shutil.which('cc') or 'no C compiler in PATH'}"
        )
    except InputError as error:
        yield Row("Triton", "wrong", str(error), "install gcc and Python's headers")


def wheel(cuda: bool, driver_version: str | None, wheel_cuda: str | None) -> Row:
    """Compare the driver with the CUDA that torch was built for."""
    figure = f"driver {driver_version or 'none'}, torch for CUDA {wheel_cuda or 'none'}"
    if driver_version is None:
        return Row("driver and wheel", "ok" if cuda else "skipped", figure if cuda else f"no GPU: {figure}")
    if wheel_cuda is None:
        return Row("driver and wheel", "wrong", figure, "this torch is a CPU build: run `make setup` in a new .venv")
    if least := driver.too_old(driver_version, wheel_cuda):
        to_do = f"it needs a driver of {least} or later: `make setup EXTRA=cuda12 TORCH_BACKEND=cu126`"
        return Row("driver and wheel", "wrong", figure, to_do)
    if not cuda:
        to_do = "torch sees no GPU: check CUDA_VISIBLE_DEVICES, nvidia-smi, and that the container was given the GPU"
        return Row("driver and wheel", "wrong", figure, to_do)
    return Row("driver and wheel", "ok", figure)


def architecture(capability: tuple[int, int], built: list[str]) -> Row:
    """Say whether torch has code for this GPU: of its own version, of an older one of its major, or to be compiled."""
    major, minor = capability
    numbers = {name: int("".join(filter(str.isdigit, name.split("_")[1]))) for name in built}
    own = [n for name, n in numbers.items() if name.startswith("sm_") and n // 10 == major and n % 10 <= minor]
    later = [n for name, n in numbers.items() if name.startswith("compute_") and n <= 10 * major + minor]
    figure = f"compute capability {major}.{minor}; torch has {' '.join(built)}"
    if own:
        return Row("GPU architecture", "ok", figure)
    if later:
        return Row("GPU architecture", "slow", figure, "kernels are compiled at the first start; use a newer torch")
    return Row("GPU architecture", "wrong", figure, "this torch has no kernels for the GPU: use another version")


def pinned_rate() -> Row:
    """Measure how fast pinned memory is had and copied to the GPU."""
    began = time.perf_counter()
    host = torch.empty(PINNED, dtype=torch.uint8, pin_memory=True)
    taken = time.perf_counter() - began
    there = torch.empty_like(host, device="cuda")
    rates = []
    for _ in range(4):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        there.copy_(host, non_blocking=True)
        end.record()
        end.synchronize()
        rates.append(PINNED / (start.elapsed_time(end) / 1000) / GB)
    slow = max(rates) < 4  # PCIe 3.0 x8 brings 6
    to_do = "the GPU's PCIe link is narrow or asleep: see `nvidia-smi -q -d PERFORMANCE,PCIE`" if slow else ""
    figure = f"{PINNED >> 20} MiB in {1000 * taken:.0f} ms; {max(rates):.1f} GB/s to the GPU"
    return Row("pinned memory", "slow" if slow else "ok", figure, to_do, {"gb_s": max(rates), "pin_s": taken})


def library() -> Row:
    """Decode an image by libffcv, which needs libturbojpeg."""
    import io

    from PIL import Image

    grey, written = np.full((16, 24, 3), 77, np.uint8), io.BytesIO()
    Image.fromarray(grey).save(written, "JPEG", quality=95)
    try:
        came = libffcv.decode(np.frombuffer(written.getvalue(), np.uint8), 16, 24)
    except InputError as error:
        return Row("libffcv and libturbojpeg", "wrong", str(error), "run `make setup`")
    if came is None or abs(came.astype(int) - grey).max() > 2:
        return Row("libffcv and libturbojpeg", "wrong", "decodes a grey image to others", "build ffcv: `make setup`")
    return Row("libffcv and libturbojpeg", "ok", "decode")


def usable_cores(affinity: int, quota: float | None) -> Row:
    """Compare the cores of the affinity, by which torch starts threads, with those that the cgroup grants."""
    figure = (
        f"{affinity} by affinity, {'no limit' if quota is None else f'{quota:g}'} by cgroup, {os.cpu_count()} in all"
    )
    values = {"affinity": float(affinity), "cgroup": math.inf if quota is None else quota}
    if quota is not None and quota < affinity:
        to_do = f"torch's threads would be throttled: set OMP_NUM_THREADS={max(1, int(quota))}"
        return Row("cores", "slow", figure, to_do, values)
    return Row("cores", "ok", figure, "", values)


def memory(available: int, limit: int | None) -> Row:
    """Say how much memory a run may take."""
    figure = f"{available / GB:.1f} GB available, {'no limit' if limit is None else f'{limit / GB:.1f} GB'} by cgroup"
    least = min(available, limit or available)
    small = least < 4 * GB
    to_do = "a run beside its page cache wants more: set --data.ahead 2 and --data.memory-mb lower" if small else ""
    return Row("memory", "slow" if small else "ok", figure, to_do, {"gb": least / GB})


def locked(cuda: bool, limit: float) -> Row:
    """Say how much memory may be locked; the driver pins without it, network cards (RDMA) do not."""
    figure = "no limit" if math.isinf(limit) else f"{limit / MB:,.1f} MB"
    if not cuda:
        return Row("locked memory (ulimit -l)", "skipped", f"no GPU: {figure}")
    few = limit < LEAST_LOCKED
    to_do = "several nodes over InfiniBand need `ulimit -l unlimited`; one node does not" if few else ""
    return Row("locked memory (ulimit -l)", "slow" if few else "ok", figure, to_do)


def shared_memory(free: int | None, gpus: int) -> Row:
    """Say whether NCCL's ranks of this node can exchange through /dev/shm."""
    if free is None:
        return Row("/dev/shm", "slow" if gpus > 1 else "ok", "absent", "several GPUs: mount a tmpfs" * (gpus > 1))
    few = free < LEAST_SHM and gpus > 1
    to_do = "NCCL's ranks may not start: start the container with --shm-size 8g" if few else ""
    return Row("/dev/shm", "slow" if few else "ok", f"{free / GB:.2f} GB free", to_do, {"gb": free / GB})


def data_rows(context: Context) -> Iterator[Row]:
    """Yield the rates at which the data is read, beside what a GPU takes."""
    beton = open_photographs(context)
    gpus, takes = max(1, torch.cuda.device_count()), need("vit_small_patch16_224").images_per_s
    each, size = float(beton.sizes[:].mean()), beton.path.stat().st_size
    rates = read_rates(beton.path, 1 if context.quick else 3)
    how = "past the page cache" if rates.direct else "pages dropped before: this file system knows no direct reads"
    from_disk, from_cache = rates.disk / each, rates.cache / each
    held = limits.available_memory() / size
    enough, fits = from_disk > gpus * takes or not context.cuda, held > 1
    figure = f"{rates.disk / MB:,.0f} MB/s, {from_disk:,.0f} images/s of {each / 1000:.0f} kB ({how})"
    to_do = f"{gpus} GPU(s) take up to {gpus * takes:,.0f} of ViT-S: " * (not enough)
    if not enough:
        to_do += "the file fits the page cache, so the first pass alone waits" if fits else "store smaller (--advise)"
    given = "" if context.data else ", of images made for this"
    values = {"mb_s": rates.disk / MB, "images_s": from_disk}
    yield Row(f"disk rate of {beton.path.name}{given}", "ok" if enough or fits else "slow", figure, to_do, values)
    figure = f"{rates.cache / MB:,.0f} MB/s, {from_cache:,.0f} images/s; memory for {percent(min(1, held))} of the file"
    slow = context.cuda and from_cache < gpus * takes
    to_do = "the memory's own rate is too low for this many GPUs" if slow else ""
    yield Row("page cache", "slow" if slow else "ok", figure, to_do, {"mb_s": rates.cache / MB, "images_s": from_cache})
