"""Measure what a file of very many images costs before its first batch.

    python -m pipeline.bench.simulate --images 100000000

It writes a file whose images are holes (pipeline.bench.sparse_file), opens it in a fresh process and draws samples and
plans of some steps as one rank does: 256 labelled and 1,792 unlabelled images, one image in a hundred labelled, weak
and strong views and a mask. Nothing is decoded. Times are wall-clock, memory is of that process.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from pipeline.bench.sparse_file import write_sparse
from pipeline.errors import InputError, command
from pipeline.flags import AT_LEAST_1, check_bounds, parse
from pipeline.store.beton import Beton, open_beton

LABELLED, UNLABELLED, EVERY, STEPS = 256, 1792, 100, 50


@dataclass(frozen=True)
class Options:
    """Write sparse .beton files and measure how they open."""

    images: Annotated[tuple[int, ...], AT_LEAST_1] = (1_281_167, 100_000_000)
    """Images of each file."""
    folder: str | None = None
    """Where to write them (48 bytes of disk an image, removed at the end); the system's temporary folder if absent."""


def memory_mb() -> dict[str, float]:
    """Read the resident memory of this process, MB: its own, mapped pages of files (shared), and the peak of both."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kb = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if "kB" in value}
    names = {"own": "RssAnon", "mapped": "RssFile", "peak": "VmHWM"}
    return {name: round(kb[key] * 1024 / 1e6, 1) for name, key in names.items()}


def probe(path: str) -> None:
    """Open a file and draw the first steps, in a process that has done nothing else, and print the figures as JSON."""
    before, began = memory_mb(), time.perf_counter()
    beton = open_beton(path)
    found = {"open_s": time.perf_counter() - began, "start_mb": before, "open_mb": memory_mb()}
    print(json.dumps({**found, **steps(beton, began), "end_mb": memory_mb()}))


def steps(beton: Beton, opened: float) -> dict[str, float | None]:
    """Measure the seconds for the labels, for the first step's plan, and from `opened` until the whole index is
    checked; then the median µs an image of the sampler alone and with the plan."""
    from pipeline import train_data  # late, so that opening is measured without torch, which these import
    from pipeline.labels.splits import Split, known_labels
    from pipeline.sampling.sampler import Sampler
    from pipeline.spec import Data
    from pipeline.views.plan import draw

    ids = np.arange(0, beton.n, EVERY)
    began = time.perf_counter()
    labels = known_labels(beton, Split("simulated", beton.digest, beton.n, 0, beton.manifest.classes or (), ids))
    found: dict[str, float | None] = {"labels_s": time.perf_counter() - began}
    data = Data()
    specs = train_data.labelled_spec(data, 16, False), train_data.unlabelled_spec(data, 16, True, True)
    sampler = Sampler(0, labels.ids, range(beton.n), LABELLED, UNLABELLED)
    spent = []
    for step in range(STEPS + 1):
        began = time.perf_counter()
        streams = sampler.at(step)
        sampled = time.perf_counter() - began
        for spec, samples in zip(specs, streams, strict=True):
            assert samples is not None  # both pools are read
            draw(spec, samples, beton.heights[samples.ids], beton.widths[samples.ids], 0)
            beton.where(samples.ids)
            if spec is specs[0]:
                assert (labels[samples.ids] >= 0).all()
        spent.append((sampled, time.perf_counter() - began))
        if not step:
            beton.settle()
            checked = time.perf_counter() - opened if beton.later else None
            found |= {"first_plan_s": spent[0][1], "checked_s": checked}
    for name, values in zip(("sampler_us", "plan_us"), zip(*spent[1:], strict=True), strict=True):
        found[name] = statistics.median(values) / (LABELLED + UNLABELLED) * 1e6
    return found


def probed(path: Path, *, cold: bool, before: str = "") -> dict:
    """Run `probe` in a fresh process and return its figures; cold: none of the file in the page cache; before: Python
    to run first."""
    if cold:
        evict(path)
    code = f"{before}\nfrom pipeline.bench.simulate import probe\nprobe({str(path)!r})"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{path}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def evict(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def table(rows: list[tuple[str, dict]]) -> str:
    """Print one line a measurement."""
    lines = [
        f"{'':24}   open   own  mapped  peak  labels  first plan  checked  sampler  plan   own  mapped",
        f"{'images, page cache':24}      s    MB      MB    MB       s           s        s    us/im  us/im  MB"
        "      MB",
    ]
    for name, found in rows:
        opened, end = found["open_mb"], found["end_mb"]
        checked = "at once" if found["checked_s"] is None else f"{found['checked_s']:.1f}"
        lines.append(
            f"{name:24s} {found['open_s']:6.2f} {opened['own']:5.0f} {opened['mapped']:7.0f} {opened['peak']:5.0f}"
            f" {found['labels_s']:7.2f} {found['first_plan_s']:11.3f} {checked:>8s}"
            f" {found['sampler_us']:8.2f} {found['plan_us']:6.1f} {end['own']:5.0f} {end['mapped']:7.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    options = parse(Options, description=__doc__, prog="python -m pipeline.bench.simulate")
    check_bounds(options, "--")
    if not options.images:
        raise InputError("--images: expected numbers of images, got none")
    if options.folder and not Path(options.folder).is_dir():
        raise InputError(f"--folder: {options.folder} is no folder")
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for n in options.images:
            path = Path(folder) / "train.beton"
            write_sparse(path, n)
            for cold in (True, False):
                rows.append((f"{n:,}, {'cold' if cold else 'warm'}", probed(path, cold=cold)))
            path.unlink()
    print(table(rows))


if __name__ == "__main__":
    command(main)
