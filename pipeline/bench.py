"""How many images a CPU-second prepares, of each path and of the peers.  python -m pipeline.bench DATA.beton

Every case goes through the same images, all cases take turns in one process, and the clock is CPU time over all
threads, which a busy machine moves little. Ratios compare runs of the same round.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from pipeline import bench_peers, kernels
from pipeline.backends.base import jpeg_source
from pipeline.backends.ffcv import FFCV
from pipeline.beton import Beton, open_beton
from pipeline.errors import InputError, command
from pipeline.order import Picks
from pipeline.plan import Plan, Wanted, draw
from pipeline.pool import Pool, cores
from pipeline.spec import Data, View
from pipeline.task import wanted_unlabelled

SCALE = bench_peers.SCALE
PATCH = 16
BOUND, CPU, DEVICE = "decode only (the bound)", "T0: weak + strong views on the CPU", "T2: decode, views on the device"


@dataclass(frozen=True)
class Options:
    """Measure the data path on one .beton file."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA.beton")]
    """A .beton file."""
    size: int = 224
    """Side of the views, in pixels."""
    threads: int = 1
    """Decoding threads; more of them share caches and memory, and each prepares a little less."""
    rounds: int = 5
    """How often each case runs."""
    images: int = 500
    """Images of a round, the file's first."""
    batch: int = 128
    """Images in a batch."""
    json: bool = False
    """Print JSON instead of the table."""


@dataclass(frozen=True)
class Rate:
    """Images per CPU-second: median, lowest and highest of the rounds; ratio: median of the ratios to the bound."""

    median: float
    low: float
    high: float
    ratio: float


Case = Callable[[], int]
"""Prepares every image once and says how many they were."""


def measure(options: Options, beton: Beton) -> dict[str, Rate]:
    """Every case by name; raises InputError for options out of range."""
    for name, low in (("size", 2 * PATCH), ("threads", 1), ("rounds", 1), ("images", 1), ("batch", 1)):
        if getattr(options, name) < low:
            raise InputError(f"--{name} must be {low} or more, got {getattr(options, name)}")
    ids = np.arange(min(options.images, beton.n))
    ours, close = own_cases(beton, ids, options)
    cases = ours | bench_peers.cases(beton, ids, options.size, options.batch, options.threads)
    try:
        rates = interleaved(cases, options.rounds)
    finally:
        close()
    bound = rates[BOUND]
    return {
        name: Rate(
            statistics.median(values),
            min(values),
            max(values),
            statistics.median(value / most for value, most in zip(values, bound, strict=True)),
        )
        for name, values in rates.items()
    }


def interleaved(cases: dict[str, Case], rounds: int) -> dict[str, list[float]]:
    """Images per CPU-second of each case in each round, after one round that compiles and warms up."""
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for round_number in range(rounds + 1):
        for name, case in cases.items():
            began = time.process_time()
            n = case()
            if round_number:
                rates[name].append(n / max(time.process_time() - began, 1e-9))
    return rates


def own_cases(beton: Beton, ids: np.ndarray, options: Options) -> tuple[dict[str, Case], Callable[[], None]]:
    """The cases of this package, and what ends their threads."""
    weak, size = View(scale=SCALE), options.size
    both = Data(size=size, weak=weak, strong=View(scale=SCALE, augment="usb", erase="cutout"))
    crops = Data(size=size, weak=weak, strong=weak)
    backend = FFCV(beton, size, torch.device("cpu"), "cpu", options.threads)
    pool = Pool(options.threads, lambda: None)
    batches = [ids[first : first + options.batch] for first in range(0, len(ids), options.batch)]
    most = max(3 * int((beton.heights[part] * beton.widths[part]).sum()) for part in batches)

    def planned(wanted: Wanted) -> int:
        for part in batches:
            plan_of(beton, wanted, part)
        return len(ids)

    def viewed(wanted: Wanted) -> int:
        for part in batches:
            backend.start(plan_of(beton, wanted, part))()
        return len(ids)

    def wanted(data: Data, strong: bool = True, visible: bool = True) -> Wanted:
        return wanted_unlabelled(data, PATCH, strong, visible)

    cases = {
        BOUND: partial(decoded, beton, ids),
        DEVICE: partial(packed, beton, batches, np.empty(most, np.uint8), pool, wanted(both)),
        CPU: partial(viewed, wanted(both)),
        "T0 without the strong colours": partial(viewed, wanted(crops)),
        "T0, one crop": partial(viewed, wanted(crops, strong=False, visible=False)),
        "planning alone": partial(planned, wanted(both)),
    }

    def close() -> None:
        backend.close()
        pool.close()

    return cases, close


def plan_of(beton: Beton, wanted: Wanted, ids: np.ndarray) -> Plan:
    """The first pass's plan of the images `ids` (i64 [n])."""
    return draw(wanted, Picks(ids, np.zeros_like(ids)), beton.heights[ids], beton.widths[ids], seed=0)


def decoded(beton: Beton, ids: np.ndarray) -> int:
    """Decode one image after another to the same place, in one compiled call: nothing that decodes can be faster."""
    areas, errors = beton.heights[ids] * beton.widths[ids], np.zeros(len(ids), np.int32)
    target = np.empty(3 * int(areas.max()), np.uint8)
    kernels.decode_packed(0, len(ids), jpeg_source(beton, ids), target, np.zeros(len(ids), np.int64), errors)
    return len(ids)


def packed(beton: Beton, batches: list[np.ndarray], buffer: np.ndarray, pool: Pool, wanted: Wanted) -> int:
    """T2's share of the CPU: plan, then decode a batch into one buffer u8 [bytes], on the engine's threads.

    The buffer is the same every time, as torch's pinned allocator keeps it where there is a GPU.
    """
    for part in batches:
        plan_of(beton, wanted, part)
        source, errors = jpeg_source(beton, part), np.zeros(len(part), np.int32)
        area = source.heights * source.widths
        places = np.cumsum(area) - area
        job = partial(_decode_job, source, buffer, places, errors)
        pool.start(job, len(part))()
    return sum(map(len, batches))


def _decode_job(source, buffer, places, errors, first: int, last: int, _: None) -> None:
    kernels.decode_packed(first, last, source, buffer, places, errors)


def where(options: Options, beton: Beton) -> dict[str, str | int]:
    """What the figures hold for: machine, versions, data."""
    model = [line.split(":")[1].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    names = ("ffcv", "numba", "numpy", "torch", "torchvision", "pillow")
    return {
        "cpu": model[0] if model else "unknown CPU",
        "cores": cores(),
        **{name: version(name) for name in names},
        "data": f"{beton.path.name}, {beton.manifest.stored_kb['mean']:.0f} kB an image",
        "images": min(options.images, beton.n),
        "size": options.size,
        "batch": options.batch,
        "threads": options.threads,
        "rounds": options.rounds,
    }


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def verdict(rates: dict[str, Rate], available: int) -> str:
    """Which path, and how many images a second this machine's cores can feed, in a sentence."""
    device, cpu = rates[DEVICE].median, rates[CPU].median
    return (
        f"With a GPU make the views there (T2: {device / cpu:.1f}x the images of T0); at {available} core(s), all that "
        f"this process may use, T2 feeds about {available * device:.0f} images/s and T0 {available * cpu:.0f}."
    )


def table(rates: dict[str, Rate]) -> str:
    """One line a case."""
    width = max(map(len, rates))
    lines = [f"{'images per CPU-second':{width}s}  median   lowest  highest   of the bound"]
    for name, rate in rates.items():
        figures = f"{rate.median:8.0f} {rate.low:8.0f} {rate.high:8.0f}   {rate.ratio:12.2f}"
        lines.append(f"{name:{width}s}{figures}")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or JSON."""
    options = tyro.cli(Options, description=__doc__, prog="python -m pipeline.bench")
    beton = open_beton(options.path)
    rates, found = measure(options, beton), where(options, beton)
    if options.json:
        print(json.dumps({"where": found, "rates": {name: asdict(rate) for name, rate in rates.items()}}))
        return
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    print(table(rates))
    print(verdict(rates, cores()))


if __name__ == "__main__":
    command(main)
