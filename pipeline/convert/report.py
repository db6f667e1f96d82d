"""What a conversion reports: what became of the images, sizes, and how many one core will decode in a second."""

import hashlib
import time
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import numpy as np

from pipeline.backends.libffcv import decode
from pipeline.convert.writer import Written
from pipeline.errors import InputError
from pipeline.sources.levels import Span
from pipeline.store.beton import Beton
from pipeline.store.integrity import chunks_sha256, index_sha256
from pipeline.store.manifest import FORMAT, Manifest, identity

DECODE_BYTES_PER_S = 105e6  # one core of a current server, at any resolution and quality
FEWEST = 100  # below this many samples a timing says little
NAMED = 10  # rejected files that an error names: of a small source all, so that they are mended in one go


@final
@dataclass
class Outcome:
    """What became of the source's files so far."""

    total: int
    max_bad: float
    ignored: Mapping[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    how: Counter[str] = field(default_factory=Counter)
    deep: Counter[str] = field(default_factory=Counter)

    def reject(self, name: str, reason: str) -> None:
        """Note a rejection. Raises InputError once too large a share of the source is rejected, and enough to name."""
        self.rejected.append((name, reason))
        if len(self.rejected) >= NAMED:
            self.check()

    def note_span(self, span: Span | None) -> None:
        """Count an image of 16 bits and its lowest and highest value; None is one of 8 bits."""
        if span is None:
            return
        low = min(self.deep["low"], span.low) if self.deep else span.low
        self.deep.update(images=1, narrow=int(span.narrow))
        self.deep["low"], self.deep["high"] = low, max(self.deep["high"], span.high)

    def check(self) -> None:
        """Raise InputError if too large a share of the source is rejected."""
        if len(self.rejected) > self.max_bad * self.total:
            first = "; ".join(f"{name}: {reason}" for name, reason in self.rejected[:NAMED])
            count = f"{len(self.rejected)} of {self.total} files rejected, expected --max-bad {self.max_bad:g} at most"
            raise InputError(f"{count} ({first}); remove or repair them, or raise --max-bad")


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
        n_passed_through=outcome.how["passed through"],
        n_re_encoded=outcome.how["re-encoded"],
        n_resized=outcome.how["resized"],
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
    )


def stored_kb(written: Written) -> dict[str, float]:
    """Mean, median and 99th percentile of the samples' sizes, kB (1000 bytes)."""
    sizes = written.table["size"] / 1e3
    low, high = np.percentile(sizes, [50, 99])
    return {"mean": round(sizes.mean(), 3), "p50": round(low, 3), "p99": round(high, 3)}


def side(written: Written) -> dict[str, float]:
    """Mean and maximum of the samples' longer sides, pixels."""
    longer = np.maximum(written.samples["image"]["height"], written.samples["image"]["width"])
    return {"mean": round(float(longer.mean()), 1), "max": int(longer.max())}


def pixels(written: Written) -> dict[str, int]:
    """Pixels of all samples together, and of the largest."""
    each = written.samples["image"]["height"].astype(np.int64) * written.samples["image"]["width"]
    return {"total": int(each.sum()), "largest": int(each.max())}


def range_note(manifest: Manifest) -> str:
    """Warn of 16-bit images that are stored dark or flat, since they use little of their range; empty without them."""
    deep = manifest.deep
    if not deep or not deep["narrow"] or manifest.arguments.get("window") is not None:
        return ""
    return (
        f"warning: {deep['narrow']} of {deep['images']} images of 16 bits use under an eighth of 0 to 65535 (values of "
        f"all images: {deep['low']} to {deep['high']}), and are stored as dark or flat as that; convert again with "
        f"--window {deep['low']} {deep['high']}, or --window auto for each image's own range"
    )


def decode_rate(data: np.ndarray, written: Written, limit_s: float = 1.0) -> tuple[float, bool]:
    """Images one core decodes in a second and whether that was measured: u8 [bytes] of the file, its table.

    CPU time, so that a busy machine does not lower it; from the mean size where there are too few samples.
    """
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


def versions() -> dict[str, str]:
    """Versions of what wrote the file."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"shotcrete": project["version"], **{name: version(name) for name in ("ffcv", "numpy", "pillow")}}


def describe(beton: Beton, splits: list[str]) -> str:
    """A conversion in a few lines."""
    found = beton.manifest
    kb, origin = found.stored_kb, "measured" if found.measured_decode else "from the mean size"
    classes = "no classes" if found.classes is None else f"{len(found.classes)} classes"
    how = f"{found.n_passed_through} kept as they were, {found.n_re_encoded} re-encoded, {found.n_resized} resized"
    lines = [
        f"{beton.path}: {found.n} images, {classes}, {found.n_unlabelled} unlabelled; {how}",
        f"{found.bytes / 1e6:.1f} MB; an image has {kb['mean']:.1f} kB (99 % below {kb['p99']:.1f}) "
        f"and {found.side['mean']:.0f} pixels on its longer side ({found.side['max']:.0f} at most)",
        f"one core decodes about {found.decode_images_per_s:.0f} images/s ({origin}); written in {found.seconds:.1f} s",
    ]
    if found.ignored:
        each = ", ".join(f"{count} {suffix}" for suffix, count in sorted(found.ignored.items()))
        lines.append(f"ignored, since they are no images: {each}")
    if found.rejected:
        lines.append(f"{len(found.rejected)} files rejected:")
        lines += [f"  {name}: {reason}" for name, reason in found.rejected[:5]]
    if note := range_note(found):
        lines.append(note)
    lines.append(f"splits: {', '.join(splits) or 'none'}")
    return "\n".join(lines)
