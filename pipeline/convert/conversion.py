"""Turn images into a .beton, its manifest, its names and its splits.  `python -m pipeline.convert SRC OUT.beton`

manifest = convert("photos", "train.beton", Options(side=500, split=(0.1,)))

A conversion writes `OUT.beton.partial`, reads every sample back, and then names all files (pipeline.convert.commit):
whatever stops it leaves the data set that was there before, or none, or all of the new one.
`python -m pipeline.store OUT.beton` checks a file again later.
"""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.concurrency.cores import cores
from pipeline.convert.commit import check_absent, commit, read_back, remove_stale_splits, writing
from pipeline.convert.measure import measured
from pipeline.convert.outcome import Outcome
from pipeline.convert.writer import Sample, write
from pipeline.errors import InputError
from pipeline.labels.splits import draw, labels_each, split_name, split_path, split_text
from pipeline.sources.encode import Decoding, Prepared, prepare
from pipeline.sources.find import find
from pipeline.sources.levels import Window, check_window
from pipeline.sources.reading import FOUND_OUT, Reading
from pipeline.sources.source import Pixels, Source, WrongItem
from pipeline.store.beton import open_beton
from pipeline.store.file_format import Store
from pipeline.store.image_size import MAX_PIXELS, MAX_SIDE
from pipeline.store.manifest import Manifest, manifest_path, to_json
from pipeline.store.sample_names import encode_names, escape, names_path

WORTH_ADVICE_S = 20  # a conversion that took so long may take 2.5 s longer, to say what others would have cost


@dataclass(frozen=True)
class Options:
    """How images are stored, and which labels may be seen."""

    side: int | None = 500
    """Longest side kept, in pixels; larger images are resized. None keeps every size."""
    quality: int = 90
    """JPEG quality of what is encoded here."""
    split: tuple[float, ...] = ()
    """Splits to write: the share of every class whose labels may be seen."""
    per_class: tuple[int, ...] = ()
    """Splits to write: the number of labels of every class that may be seen."""
    seed: int = 0
    """Of the order in the file and of the splits."""
    store: Store = "jpeg"
    """How images are stored. jpeg: small, and decoding costs most of a core's time; raw: as pixels, without a loss, for
    small images; yuv420: as planes, half of raw, for photographs where disk is cheaper than cores (--advise)."""
    reencode: bool = False
    """Encode again even the JPEGs that could be kept as they are."""
    window: Window | None = None
    """Values shown as black and white where pixels have more than 8 bits; auto: each image's own; 0 65535 if absent."""
    keep_metadata: bool = False
    """Keep all of a JPEG file that passes through, EXIF and GPS included, not only what decoding it needs."""
    max_pixels: int = MAX_PIXELS
    """Largest image that is read; a worker takes up to 12 bytes of memory a pixel (20,000 x 20,000: 5 GB), 20 of WebP,
    16-bit grey and with alpha, 40 of 32-bit pixels."""
    max_bad: float = 0.001
    """Share of the source's images that may be rejected; files that are no images are ignored."""
    workers: int | None = None
    """Threads that encode; as many as this process has cores when absent."""
    overwrite: bool = False
    """Replace an existing output, and remove the splits of the one before."""

    def check(self) -> None:
        """Raise InputError on a value out of range."""
        for name, low, high in (("side", 1, 65_500), ("quality", 1, 100), ("max_bad", 0, 1), ("workers", 1, 4096)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"--{name.replace('_', '-')}: expected {low} to {high}, got {value}")
        for name in ("reencode", "keep_metadata"):
            if getattr(self, name) and self.store != "jpeg":
                raise InputError(f"--{name.replace('_', '-')} is for --store jpeg, got --store {self.store}")
        check_window(self.window)
        if not 1 <= self.max_pixels <= MAX_SIDE**2:
            raise InputError(f"--max-pixels: expected 1 to {MAX_SIDE**2}, got {self.max_pixels}")
        if self.seed < 0:
            raise InputError(f"--seed: expected 0 or more, got {self.seed}")
        for fraction, k in self.draws():
            split_name(fraction, k, self.seed)

    @property
    def decoding(self) -> Decoding:
        """How pixels are read."""
        return Decoding(self.window, self.keep_metadata, self.max_pixels)

    def draws(self) -> Iterator[tuple[float | None, int | None]]:
        """(fraction, None) or (None, k) of every split asked for."""
        yield from ((fraction, None) for fraction in self.split)
        yield from ((None, k) for k in self.per_class)


def convert(
    source: Any,
    out: str | Path,
    options: Options = Options(),
    *,
    reading: Reading = FOUND_OUT,
    unlabelled: str | Path | None = None,
    progress: bool = False,
) -> Manifest:
    """Write a folder, CSV, data set object or Source as `out`, in an order shuffled by the seed, then its splits.

    `reading` says how a folder or table is read; `unlabelled` is a folder whose images follow without labels. Nothing
    is left behind where the source, the options, a split that cannot be drawn or too many files are wrong. Raises
    InputError for all these.
    """
    started, out = time.perf_counter(), Path(out)
    options.check()
    if out.suffix != ".beton":
        raise InputError(f"{out}: expected an output name that ends in .beton")
    if out.is_dir():
        raise InputError(f"{out} is a folder; choose another name")
    check_absent(out, options.overwrite)  # before a listing that may be slow, and again when the lock is held
    found = find(source, unlabelled, reading)
    if found.classes is None and any(options.draws()):
        raise InputError("splits need labels: expected class folders, a CSV with labels or a data set with classes")
    if found.labels is not None:
        _check_draws(found.classes, found.labels, options)  # before hours of work, though some images may yet be bad
    arguments = {**asdict(options), **reading.arguments(), "source": _named(source)}
    arguments["unlabelled"] = None if unlabelled is None else escape(str(unlabelled))
    _write(found, out, options, arguments, started, progress)
    beton = open_beton(out)
    if options.overwrite:
        remove_stale_splits(beton)
    return beton.manifest


def _check_draws(classes: tuple[str, ...] | None, labels: np.ndarray, options: Options) -> None:
    counts = np.bincount(labels[labels >= 0], minlength=len(classes or ())).tolist()
    for fraction, k in options.draws():
        labels_each(classes or (), counts, fraction, k)


def _write(
    source: Source, out: Path, options: Options, arguments: dict[str, Any], started: float, progress: bool
) -> None:
    outcome = Outcome(len(source) + len(source.rejected), options.max_bad, source.ignored, source.notes)
    for name, reason in source.rejected:
        outcome.reject(name, reason)
    order = np.random.default_rng(options.seed).permutation(len(source)).tolist()
    workers = options.workers or cores()
    with writing(out, options.overwrite) as partial, ThreadPoolExecutor(workers) as pool:
        with (
            closing(_prepared(source, order, options, pool, 4 * workers)) as prepared,
            tqdm(prepared, total=len(order), unit=" images", disable=not progress) as bar,
        ):
            written = write(partial, _samples(bar, source, outcome), len(order), options.store)
        if not outcome.names:
            raise InputError(
                f"no image is left of {len(order)}: {outcome.rejected[0][0]}: {outcome.rejected[0][1]}, ..."
            )
        outcome.check()
        _check_draws(source.classes, written.samples["label"], options)
        read_back(partial, written, pool)
        names = encode_names(outcome.names)
        manifest = measured(partial, written, source.classes, outcome, names, arguments, started)
        labels = written.samples["label"]
        drawn = [draw(labels, manifest, fraction=f, per_class=k, seed=options.seed) for f, k in options.draws()]
        contents = {manifest_path(out): to_json(manifest).encode(), names_path(out): names}
        contents |= {split_path(out, split.name): split_text(split).encode() for split in drawn}
        commit(out, contents, options.overwrite)


def _prepared(
    source: Source, order: list[int], options: Options, pool: ThreadPoolExecutor, ahead: int
) -> Generator[tuple[int, Prepared | str, int]]:
    """(source id, what to store or why not, label) in order, `ahead` images being worked on."""
    work: deque[tuple[int, Future]] = deque()
    try:
        for i in order:
            read = None if source.concurrent else _read(source, i)
            work.append((i, pool.submit(_one, source, i, read, options)))
            if len(work) > ahead:
                i, future = work.popleft()
                yield i, *future.result()
        while work:
            i, future = work.popleft()
            yield i, *future.result()
    finally:
        for _, future in work:
            future.cancel()


def _read(source: Source, i: int) -> tuple[Pixels | str, int]:
    """Image i and its label, or why it cannot be read. Raises WrongItem where the source itself is at fault."""
    try:
        return source.read(i)
    except WrongItem:
        raise
    except InputError as error:
        return str(error), -1
    except OSError as error:
        return error.strerror or str(error), -1


def _one(source: Source, i: int, read: tuple[Pixels | str, int] | None, options: Options) -> tuple[Prepared | str, int]:
    image, label = read or _read(source, i)
    if isinstance(image, str):
        return image, -1
    try:
        made = prepare(image, options.side, options.quality, options.reencode, options.decoding, options.store)
    except InputError as error:
        return str(error), -1
    return made, label


def _samples(prepared: Iterable[tuple[int, Prepared | str, int]], source: Source, outcome: Outcome) -> Iterator[Sample]:
    top = len(source.classes or ())
    for i, image, label in prepared:
        name = source.name(i)
        if isinstance(image, str):
            outcome.reject(name, image)
            continue
        if not -1 <= label < top:
            raise InputError(f"{name}: expected a label from 0 to {top - 1}, or -1 for none, got {label}")
        outcome.keep(name, image)
        yield Sample(image.data, image.height, image.width, label)


def _named(source: Any) -> str:
    return escape(str(source)) if isinstance(source, str | Path) else type(source).__name__
