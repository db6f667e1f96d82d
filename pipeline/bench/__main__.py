"""Measure how many images a CPU-second prepares, on each path and by the peers.

Every case prepares the same images, all cases take turns in one process, and the clock is CPU time over all threads and
workers, which a busy machine changes little. Ratios compare turns of the same round.
"""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from pipeline.bench.cases import (
    BOUND,
    CPU_VIEWS,
    GPU_END_TO_END,
    GPU_VIEWS,
    HW_LOADS,
    OVERHEAD,
    PATCH,
    Work,
    nvjpeg_case,
    own_cases,
)
from pipeline.bench.peers import PEERS, chosen, peer_cases, unable
from pipeline.bench.rounds import Turns, interleaved, rate, times
from pipeline.bench.verdict import Machine, machine, need, verdict
from pipeline.errors import InputError, command
from pipeline.flags import AT_LEAST_1, POSITIVE, Bound, check_bounds, parse
from pipeline.spec import Size, spelt
from pipeline.store.beton import Beton, open_beton

GOAL_IMAGES_PER_S = 1000  # rate for which the loader's own share of a core is printed
PACKAGES = ("ffcv", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "numba", "numpy", "torch", "torchvision", "pillow")


@dataclass(frozen=True)
class Options:
    """What to measure."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A .beton file, or a folder that holds train.beton."""
    against: str | None = None
    """Peers, with commas between: torchvision, ffcv, ffcv-ssl, dali, slipstream, spdl. All that are installed when
    absent. FFCV reads DATA itself, so of a raw store it is stock FFCV on raw pixels; the others read JPEG."""
    bound: str | None = None
    """A .beton of the same images as JPEG, where DATA is another store: to decode these is then the bound."""
    model: str = "vit_small_patch16_224"
    """The network that the verdict is about."""
    step_images_per_s: Annotated[float | None, POSITIVE] = None
    """Images (not views) that one GPU trains on in a second, if you measured it."""
    size: Annotated[Size, Bound(f"at least {2 * PATCH}", lambda value: value >= 2 * PATCH)] = 224
    """Size of the views, in pixels: the side of a square, or height and width."""
    filter: Literal["area", "bilinear", "bicubic"] = "bicubic"
    """How our CPU views are resized. Of the peers torchvision's are bicubic, DALI's linear, both antialiased, and
    FFCV's by area."""
    threads: Annotated[int, AT_LEAST_1] = 1
    """Decoding threads; more of them share caches and memory, and each prepares a little less."""
    rounds: Annotated[int, AT_LEAST_1] = 5
    """How often each case runs."""
    images: Annotated[int, AT_LEAST_1] = 500
    """Images of a round, the file's first."""
    batch: Annotated[int, AT_LEAST_1] = 128
    """Images in a batch."""
    json: bool = False
    """Print JSON instead of the table."""


def work_of(options: Options, beton: Beton) -> Work:
    """Gather what is measured. Raises InputError where --bound holds no JPEG, or other images."""
    ids, bound = np.arange(min(options.images, beton.n)), open_beton(options.bound) if options.bound else None
    if bound is not None and bound.store != "jpeg":
        raise InputError(f"--bound: expected a .beton of JPEG, {bound.path} holds {bound.store}")
    if bound is not None and (bound.n != beton.n or (bound.heights[ids] != beton.heights[ids]).any()):
        raise InputError(f"--bound: expected the images of {beton.path}, {bound.path} has others")
    return Work(beton, ids, options.size, options.batch, options.threads, options.filter, bound)


def measure(options: Options, beton: Beton, peers: list[str]) -> Turns:
    """Measure every case, by name."""
    work = work_of(options, beton)
    with own_cases(work) as own, peer_cases(peers, work) as others:
        return interleaved(own | others, options.rounds)


def where(options: Options, beton: Beton, here: Machine) -> dict[str, str | int]:
    """Describe what the figures hold for: machine, versions, data."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    model = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": model[0] if model else "unknown CPU",
        "cores": here.cores,
        "gpus": f"{here.gpus} x {here.gpu}" if here.gpus else "none",
        **{name: found for name in PACKAGES if (found := _version(name))},
        "data": f"{beton.path.name}, {beton.manifest.stored_kb['mean']:.0f} kB an image as {beton.store}",
        "images": min(options.images, beton.n),
        "size": spelt(options.size) if isinstance(options.size, tuple) else options.size,
        "batch": options.batch,
        "threads": options.threads,
        "rounds": options.rounds,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def summary(turns: Turns, options: Options, here: Machine) -> list[str]:
    """Put the loader's own share and the verdict into sentences."""
    gpu_views, cpu_views = rate(turns[GPU_VIEWS]).median, rate(turns[CPU_VIEWS]).median
    measured = GPU_END_TO_END in turns and options.threads >= here.cores // here.gpus
    end_to_end = rate(turns[GPU_END_TO_END]).wall if measured else None
    share = GOAL_IMAGES_PER_S / rate(turns[OVERHEAD]).median
    batches = f"in batches of {options.batch}"
    return [
        f"Sampler, plan and queues take {100 * share:.1f} % of a core at {GOAL_IMAGES_PER_S:,} images/s {batches}.",
        *engine(turns),
        verdict(need(options.model, options.step_images_per_s), gpu_views, cpu_views, here, end_to_end),
    ]


def engine(turns: Turns) -> list[str]:
    """Say which share of the GPU's JPEG engine decoded the most images a second, where shares were measured."""
    walls = {load: rate(turns[case]).wall for load in HW_LOADS if (case := nvjpeg_case(load)) in turns}
    if not walls:
        return []
    best = max(walls, key=lambda load: walls[load])
    each = ", ".join(f"{load:g}: {wall:,.0f}" for load, wall in walls.items())
    return [f"nvJPEG is fastest with --data.hw-decoder-load {best:g} (images/s by share of the GPU's engine {each})."]


def table(turns: Turns) -> str:
    """Print one line a case: its rates, its share of the bound, and how many times as fast our GPU and CPU views
    are."""
    width = max(map(len, turns))
    heads = ("median", "lowest", "highest", "of bound", "GPU views", "CPU views", "wall, /s")
    lines = [f"{'images per CPU-second':{width}s}" + "".join(f"{head:>10s}" for head in heads)]
    for name, each in turns.items():
        r = rate(each)
        ours = (f"{times(turns[case], each):9.2f}x" for case in (GPU_VIEWS, CPU_VIEWS))
        ratios = f"{times(each, turns[BOUND]):10.2f}" + "".join(ours)
        lines.append(f"{name:{width}s}{r.median:10.0f}{r.low:10.0f}{r.high:10.0f}{ratios}{r.wall:10.0f}")
    return "\n".join(lines)


def figures(turns: Turns) -> dict[str, dict[str, float]]:
    """Give the table as JSON: rates of each case, and its rate as a share of the bound, of GPU views and CPU views."""
    others = {"of_bound": BOUND, "of_gpu_views": GPU_VIEWS, "of_cpu_views": CPU_VIEWS}
    ratios = {name: {key: times(each, turns[o]) for key, o in others.items()} for name, each in turns.items()}
    return {name: asdict(rate(each)) | ratios[name] for name, each in turns.items()}


def main() -> None:
    """Print the table and the verdict, or JSON."""
    options = parse(Options, description=__doc__, prog="python -m pipeline.bench")
    check_bounds(options, "--")
    need(options.model, options.step_images_per_s)
    peers, path = chosen(options.against), Path(options.path)
    beton = open_beton(path / "train.beton" if path.is_dir() else path)
    here, cannot = machine(), unable(peers, work_of(options, beton))
    if cannot and options.against is not None:
        raise InputError("--against " + "; ".join(f"{name}: {why}" for name, why in cannot.items()))
    peers = [name for name in peers if name not in cannot]
    turns, found = measure(options, beton, peers), where(options, beton, here)
    if options.json:
        print(json.dumps({"where": found, "rates": figures(turns), "summary": summary(turns, options, here)}))
        return
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    print(table(turns))
    absent = [name for name in PEERS if name not in peers and name not in cannot] if options.against is None else []
    lines = [f"Not installed: {', '.join(absent)}."] if absent else []
    print("\n".join([*summary(turns, options, here), *lines, *(f"Not run, {it}: {cannot[it]}." for it in cannot)]))


if __name__ == "__main__":
    command(main)
