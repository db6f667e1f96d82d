"""Measure a .beton that was just written: its manifest, with sizes, hashes, and the images a core decodes in a second.

manifest = measured(partial, written, source.classes, outcome, names, arguments, started)
"""

import hashlib
import time
import tomllib
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backends.libffcv import decode
from pipeline.backends.pixels import to_pixels
from pipeline.convert.outcome import Outcome
from pipeline.convert.writer import Written
from pipeline.store.integrity import chunks_sha256, index_sha256
from pipeline.store.manifest import FORMAT, Manifest, identity

DECODE_BYTES_PER_S = 105e6  # one core of a current server, at any resolution and quality
FEWEST = 100  # below this many samples a timing says little


def measured(
    partial: Path,
    written: Written,
    classes: tuple[str, ...] | None,
    outcome: Outcome,
    names: bytes,
    arguments: dict[str, Any],
    started: float,
) -> Manifest:
    """The manifest of a file just written; `names` are the contents of its names file, `started` a perf_counter."""
    data = np.memmap(partial, np.uint8, mode="r").view(np.ndarray)
    n, labels = len(written.table), written.samples["label"]
    chunks, names_sha256 = chunks_sha256(data), hashlib.sha256(names).hexdigest()
    index = index_sha256(data, n, data.size - written.table.nbytes)
    rate, timed = decode_rate(data, written)
    return Manifest(
        format=FORMAT,
        n=n,
        classes=classes,
        class_counts=tuple(np.bincount(labels[labels >= 0], minlength=len(classes or ())).tolist()),
        n_unlabelled=int((labels < 0).sum()),
        bytes=data.size,
        digest=identity(index, classes, names_sha256, chunks),
        chunk_sha256=chunks,
        names_sha256=names_sha256,
        rejected=tuple(outcome.rejected),
        n_passed_through=outcome.count("passed through"),
        n_re_encoded=outcome.count("re-encoded"),
        n_resized=outcome.count("resized"),
        stored_kb=stored_kb(written),
        side=side(written),
        decode_images_per_s=rate,
        measured_decode=timed,
        versions=versions(),
        arguments=arguments,
        seconds=round(time.perf_counter() - started, 2),
        ignored=dict(outcome.ignored),
        index_sha256=index,
        pixels=pixels(written),
        deep=dict(outcome.deep) or None,
        kinds={kind: dict(sorted(how.items())) for kind, how in sorted(outcome.kinds.items())},
        n_first_frames=outcome.first_frames,
        dropped_bytes=outcome.dropped_bytes,
        notes=tuple(outcome.notes),
    )


def stored_kb(written: Written) -> dict[str, float]:
    """Mean, median and 99th percentile of the samples' sizes, kB (1000 bytes)."""
    sizes = written.table["size"] / 1e3
    low, high = np.percentile(sizes, [50, 99])
    return {"mean": round(sizes.mean(), 3), "p50": round(low, 3), "p99": round(high, 3)}


def side(written: Written) -> dict[str, float]:
    """Minimum, mean and maximum of the samples' longer sides, pixels."""
    longer = np.maximum(written.samples["image"]["height"], written.samples["image"]["width"])
    return {"min": int(longer.min()), "mean": round(float(longer.mean()), 1), "max": int(longer.max())}


def pixels(written: Written) -> dict[str, int]:
    """Pixels of all samples together, and of the largest."""
    each = written.samples["image"]["height"].astype(np.int64) * written.samples["image"]["width"]
    return {"total": int(each.sum()), "largest": int(each.max())}


def decode_rate(data: np.ndarray, written: Written, limit_s: float = 1.0) -> tuple[float, bool]:
    """Images one core decodes in a second and whether that was measured: u8 [bytes] of the file, its table.

    CPU time, so that a busy machine does not lower it; of JPEG from the mean size where there are too few samples.
    """
    if written.store != "jpeg":
        return _rate_of_pixels(data, written, limit_s / 4), True
    table, image = written.table, written.samples["image"]
    started, done = time.thread_time(), 0
    for i in range(len(table)) if len(table) >= FEWEST else ():
        jpeg = data[int(table["offset"][i]) :][: int(table["size"][i])]
        decode(jpeg, int(image["height"][i]), int(image["width"][i]))
        if done == 0:
            started = time.thread_time()  # the first call compiles
        done += 1
        if time.thread_time() - started > limit_s:
            break
    if done < FEWEST:
        return round(DECODE_BYTES_PER_S / table["size"].mean(), 1), False
    return round((done - 1) / (time.thread_time() - started), 1), True


def _rate_of_pixels(data: np.ndarray, written: Written, limit_s: float) -> float:
    """Images of a store of pixels that one core turns into RGB in a second; their sizes alone count, so few will do."""
    started, done = time.thread_time(), -1
    for i in cycle(range(len(written.table))):
        start, image = int(written.table["offset"][i]), written.samples["image"][i]
        stored = data[start : start + int(written.table["size"][i])]
        to_pixels(stored, int(image["height"]), int(image["width"]), written.store)
        done += 1
        if not done:
            started = time.thread_time()  # the first call compiles
        elif time.thread_time() - started > limit_s:
            break
    return round(done / (time.thread_time() - started), 1)


def versions() -> dict[str, str]:
    """Versions of what wrote the file."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"shotcrete": project["version"], **{name: _version(name) for name in ("ffcv", "numpy", "pillow")}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # FFCV's library may be there alone
        return "unknown"
