"""Draw which labels may be seen, class-balanced or with a long tail, and seeded; save and load the choice.

save_split(beton, make_split(beton, per_class=25))      # train.split-25-per-class.json, beside train.beton
labels = known_labels(beton, load_split(beton, "25-per-class"))

`python -m pipeline.split make BETON --fraction 0.1` or `--per-class 25`, `--imbalance 100` for a long tail.
"""

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from pipeline.errors import InputError
from pipeline.labels.known import Labels, every_label
from pipeline.labels.long_tail import largest_that_fits, long_tail, named_ratio, ratio_name, written
from pipeline.store.atomic_write import write_whole
from pipeline.store.beton import Beton
from pipeline.store.checksummed_json import content, to_text
from pipeline.store.file_format import metadata
from pipeline.store.json_types import typed
from pipeline.store.manifest import Manifest
from pipeline.store.pending import NEXT, candidates
from pipeline.text import count, some

FORMAT = 2
FIELDS = {
    "format": int, "name": str, "beton": str, "n": int, "seed": int | None, "classes": tuple[str, ...],
    "labelled": tuple[int, ...],
}  # fmt: skip
NAMED = 12  # classes, up to which a line names each with its count
FRACTION = re.compile(r"[01]?\.\d+", re.ASCII)  # the name of a split that is one, drawn with seed 0
OPTIONAL = {"unlabelled": tuple[int, ...]}
"""A field that a file has only where the split names the unlabelled images, too."""
NAME = re.compile(
    r"(?:(?P<k>\d+)-per-class(?:-(?P<kind>imbalance|reversed)(?P<ratio>[\d.]+))?"
    r"(?:-unlabelled(?P<pool>\d+)(?:-(?P<pool_kind>imbalance|reversed)(?P<pool_ratio>[\d.]+))?)?|(?P<share>[\d.]+))"
    r"(?:-(?P<seed>\d+))?"
)
"""The name of a split that was drawn, as `split_name` makes it."""


@final
@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one .beton whose labels may be seen.

    beton_digest  the file it was made for, of `n` samples
    seed          of the draw, None for a published list
    labelled      i64 [L], sample ids, sorted
    unlabelled    i64 [U], the unlabelled images that training may see, sorted; None: every image that is not labelled
    """

    name: str
    beton_digest: str
    n: int
    seed: int | None
    classes: tuple[str, ...]
    labelled: np.ndarray = field(repr=False)
    unlabelled: np.ndarray | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of file and ids, hex: equal for equal knowledge, whatever the split is called."""
        found = hashlib.sha256(self.beton_digest.encode() + self.labelled.astype("<i8").tobytes())
        if self.unlabelled is not None:
            found.update(b"unlabelled" + self.unlabelled.astype("<i8").tobytes())
        return found.hexdigest()


@final
@dataclass(frozen=True)
class Tail:
    """How imbalanced a split is: ratio of the largest class to the smallest (pipeline.labels.long_tail), of the labels
    and of the unlabelled pool.

    unlabelled            None: every image that is not labelled is in the pool
    unlabelled_per_class  unlabelled images of the largest class; None: as many as every class permits
    """

    labelled: float = 1.0
    unlabelled: float | None = None
    unlabelled_per_class: int | None = None

    @property
    def cuts_pool(self) -> bool:
        """Whether the split names the unlabelled images, too."""
        return self.unlabelled is not None or self.unlabelled_per_class is not None


BALANCED = Tail()


def split_path(beton: Path, name: str) -> Path:
    """train.beton, "0.10" -> train.split-0.10.json."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"expected a split name of letters, digits, '.', '-' and '_', got {name!r}")
    return beton.with_name(f"{beton.stem}.split-{name}.json")


def split_name(fraction: float | None, per_class: int | None, seed: int, tail: Tail = BALANCED) -> str:
    """0.1 -> "0.10", 4 a class -> "4-per-class"; a seed other than 0 is appended: "4-per-class-1".

    Of a long tail the name has the ratios, and the images of the pool's largest class, which `tail` must hold:
    "1500-per-class-imbalance100-unlabelled3000-imbalance100".
    """
    if (fraction is None) == (per_class is None):
        raise InputError("expected either a fraction or a number per class")
    if fraction is not None and not 0 < fraction <= 1:
        raise InputError(f"expected a fraction above 0 and up to 1, got {fraction}")
    if per_class is not None and per_class < 1:
        raise InputError(f"expected at least 1 label per class, got {per_class}")
    if tail.unlabelled_per_class is not None and tail.unlabelled_per_class < 1:
        raise InputError(f"expected at least 1 unlabelled image per class, got {tail.unlabelled_per_class}")
    if seed < 0:
        raise InputError(f"expected a seed of 0 or more, got {seed}")
    if fraction is None:
        pool = f"unlabelled{tail.unlabelled_per_class}" if tail.cuts_pool else ""
        ratio = "" if tail.unlabelled is None else ratio_name(tail.unlabelled)
        base = "-".join(filter(None, (f"{per_class}-per-class", ratio_name(tail.labelled), pool, ratio)))
    elif tail != BALANCED:
        raise InputError("an imbalance begins at the labels of the largest class; give --per-class, not --fraction")
    else:
        base = f"{fraction:.2f}" if round(fraction, 2) == fraction else f"{fraction}"
    return f"{base}-{seed}" if seed else base


def make_split(
    beton: Beton,
    *,
    fraction: float | None = None,
    per_class: int | None = None,
    seed: int = 0,
    name: str | None = None,
    tail: Tail = BALANCED,
) -> Split:
    """Draw the same share of every class (rounded, at least one) or the same number, without replacement.

    make_split(beton, per_class=1500, tail=Tail(100, unlabelled=100, unlabelled_per_class=3000))   # DARP's CIFAR-10

    With a tail, `per_class` is of the largest class. With one seed smaller splits are subsets of larger ones, and a
    long tail is one of the balanced split. Classes without any labelled image are left out.
    Raises InputError if a class has fewer images than asked for, or the file has no labels.
    """
    classes_of(beton)
    labels = stored_labels(beton)
    return draw(labels, beton.manifest, fraction=fraction, per_class=per_class, seed=seed, name=name, tail=tail)


def draw(
    labels: np.ndarray,
    manifest: Manifest,
    *,
    fraction: float | None = None,
    per_class: int | None = None,
    seed: int = 0,
    name: str | None = None,
    tail: Tail = BALANCED,
) -> Split:
    """Draw a split as `make_split` does, of a file that is not open: from its labels i64 [n] and its manifest."""
    split_name(fraction, per_class, seed, tail)  # refuses numbers that cannot be meant
    classes, counts = manifest.classes or (), manifest.class_counts
    wanted = labels_each(classes, counts, fraction, per_class, tail.labelled)
    pool: Sequence[int] | None = None
    if tail.cuts_pool:
        tail, pool = _pool_each(classes, counts, wanted, tail)
    name = name or split_name(fraction, per_class, seed, tail)
    chosen, others = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    small = labels.astype(np.min_scalar_type(-len(classes) - 1))  # numpy sorts small types much faster
    by_class, ends = np.argsort(small, kind="stable"), np.cumsum(np.bincount(small + 1, minlength=len(classes) + 1))
    for label, k in enumerate(wanted):
        ids = np.random.default_rng([seed, label]).permutation(by_class[ends[label] : ends[label + 1]])
        chosen.append(ids[:k])
        others.append(ids[k : k + pool[label]] if pool else ids[:0])
    unlabelled = np.sort(np.concatenate(others)) if pool else None
    split = Split(name, manifest.digest, manifest.n, seed, classes, np.sort(np.concatenate(chosen)), unlabelled)
    return checked(labels, manifest, split, "the draw")


def labels_each(
    classes: Sequence[str], counts: Sequence[int], fraction: float | None, per_class: int | None, ratio: float = 1.0
) -> list[int]:
    """How many of each class's images a draw labels. Raises InputError if a class has fewer, but some."""
    if per_class is None:
        assert fraction is not None  # one of the two is given
        wanted = [max(1, round(fraction * count)) for count in counts]
    else:
        wanted = [per_class] * len(counts) if ratio == 1 else long_tail(per_class, len(counts), ratio)
    for name, held, k in zip(classes, counts, wanted, strict=True):
        if 0 < held < k:
            need = count(k, "image")
            fewer = f"ask for {held} or fewer" if ratio == 1 else "ask for fewer of the largest class"
            raise InputError(f"expected {need} of class {name} to label, it has {held}; {fewer}")
    return wanted


def _pool_each(
    classes: Sequence[str], counts: Sequence[int], labelled: Sequence[int], tail: Tail
) -> tuple[Tail, list[int]]:
    """The tail with the unlabelled images of its largest class, and how many of each class are in the pool.

    Raises InputError if a class has fewer beyond its labelled ones.
    """
    ratio = 1.0 if tail.unlabelled is None else tail.unlabelled
    left = [held - k if held else held for held, k in zip(counts, labelled, strict=True)]
    some_left = [free if held else max(counts) for free, held in zip(left, counts, strict=True)]  # 0 of 0 is no lack
    most = largest_that_fits(some_left, ratio)
    n = most if tail.unlabelled_per_class is None else tail.unlabelled_per_class
    if not 0 < n <= most:
        short = [name for name, free in zip(classes, some_left, strict=True) if not free]
        more = f"the classes permit {most:,} of the largest; ask for fewer"
        more = more if most else f"every image of {some(short)} is labelled; label fewer, or add images"
        asked = f"{n:,} unlabelled images" if n else "unlabelled images"
        raise InputError(f"expected {asked} of the largest class beyond the labelled ones; {more}")
    return replace(tail, unlabelled=ratio, unlabelled_per_class=n), long_tail(n, len(classes), ratio)


def split_text(split: Split) -> str:
    """The contents of a split's file: JSON with a checksum."""
    found = {
        "format": FORMAT,
        "name": split.name,
        "beton": split.beton_digest,
        "n": split.n,
        "seed": split.seed,
        "classes": split.classes,
        "labelled": split.labelled.tolist(),
    } | ({} if split.unlabelled is None else {"unlabelled": split.unlabelled.tolist()})
    return to_text(found)


def save_split(beton: Beton, split: Split) -> Path:
    """Write `<stem>.split-<name>.json` beside the file, whole or not at all, and only if the whole index holds."""
    beton.settle()
    path = split_path(beton.path, split.name)
    try:
        write_whole(path, split_text(split))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return path


def load_split(beton: Beton, name: str) -> Split:
    """The split `name` of this file; 0.5 is also 0.50, which is what a fraction of a half is called.

    Raises InputError if there is none (and lists those there are), if it was made for another file or changed since it
    was made, or if it leaves a class without labels.
    """
    if FRACTION.fullmatch(name):
        same = (each for each in splits(beton) if FRACTION.fullmatch(each) and float(each) == float(name))
        name = next(same, name)
    path, first = split_path(beton.path, name), None
    for found in candidates(path):  # two while a conversion replaces the file
        try:
            return _read(beton, found, name)
        except InputError as error:
            first = first or error
    if first:
        raise first
    known = ", ".join(splits(beton)) or "none"
    make = f"python -m pipeline.split make {beton.path} --fraction 0.1, or --per-class 25"
    raise InputError(f"{beton.path} has no split {name!r}, it has: {known}; make one with {make}")


def _read(beton: Beton, path: Path, name: str) -> Split:
    again = f"make it again with {_command(beton, name)}"
    try:
        split = _split(content(path.read_bytes(), FORMAT))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a split file ({error}); {again}") from None
    if (split.n, split.beton_digest) != (beton.n, beton.digest):
        made = f"{count(split.n, 'image')} (digest {split.beton_digest[:8]})"
        has = f"{beton.n} (digest {beton.digest[:8]})"
        raise InputError(f"{path} was made for {made}, {beton.path} has {has}; {again}")
    return checked(stored_labels(beton), beton.manifest, split, str(path))


def _split(found: dict[str, Any]) -> Split:
    """Raises ValueError if a field is missing, unknown, or cannot be what it says."""
    kinds = FIELDS | {name: kind for name, kind in OPTIONAL.items() if name in found}
    if wrong := sorted(found.keys() ^ kinds.keys()):
        raise ValueError(f"missing or unknown: {', '.join(wrong)[:200]}")
    f = {name: typed(found[name], kind, name) for name, kind in kinds.items()}
    if not re.fullmatch("[0-9a-f]{64}", f["beton"]):
        raise ValueError("beton: expected a digest of 64 hexadecimal digits")
    unlabelled = np.array(f["unlabelled"], np.int64) if "unlabelled" in f else None
    return Split(f["name"], f["beton"], f["n"], f["seed"], f["classes"], np.array(f["labelled"], np.int64), unlabelled)


def _command(beton: Beton, name: str) -> str:
    """The command that makes the split of this name; of a published list, what is known of it."""
    path = shlex.quote(str(beton.path))
    drawn = NAME.fullmatch(name)
    if not drawn:
        return f"python -m pipeline.split import {path} LIST --name {name}"
    share = f"--per-class {drawn['k']}" if drawn["k"] else f"--fraction {drawn['share']}"
    if drawn["kind"]:
        share += f" --imbalance {written(named_ratio(drawn['kind'], drawn['ratio']))}"
    if drawn["pool"]:
        ratio = named_ratio(drawn["pool_kind"], drawn["pool_ratio"])
        share += f" --unlabelled-per-class {drawn['pool']} --unlabelled-imbalance {written(ratio)}"
    return f"python -m pipeline.split make {path} {share}" + (f" --seed {drawn['seed']}" if drawn["seed"] else "")


def splits(beton: Beton) -> list[str]:
    """Names of the splits that lie beside a file."""
    start, end = f"{beton.path.stem}.split-", ".json"
    names = {path.name.removesuffix(NEXT) for path in beton.path.parent.iterdir()}
    return sorted(name[len(start) : -len(end)] for name in names if name.startswith(start) and name.endswith(end))


def describe(beton: Beton, split: Split) -> str:
    """Say in a line how many labels of each class a split shows, and so for its unlabelled images if it names them.

    50 labels of 3 classes: a 30, b 15, c 5
    """
    labels, lines = stored_labels(beton), []
    parts = [("label", split.labelled)] + ([] if split.unlabelled is None else [("unlabelled image", split.unlabelled)])
    for what, ids in parts:
        counts = np.bincount(labels[ids], minlength=len(split.classes))
        each = [f"{name} {n:,}" for name, n in zip(split.classes, counts, strict=True)]
        if len(each) > NAMED:
            order = np.argsort(-counts, kind="stable")
            each = [*(each[i] for i in order[:3]), "...", *(each[i] for i in order[-3:])]
        lines.append(f"{count(len(ids), what)} of {count(len(counts), 'class')}: {', '.join(each)}")
    left_out = beton.n - sum(len(ids) for _, ids in parts)
    if split.unlabelled is not None and left_out:
        lines.append(f"{count(left_out, 'image')} in neither: left out of training")
    return "\n".join(lines)


def known_labels(beton: Beton, split: Split | None) -> Labels:
    """The labels that the split allows to see; without a split every one.

    Only the rows that may be seen are read, so memory never holds another label.
    Raises InputError if the split was made for another file.
    """
    if split is None:
        return every_label(stored_labels(beton), beton.manifest.n_unlabelled)
    if split.beton_digest != beton.digest:
        raise InputError(f"the split {split.name} was made for another file than {beton.path}")
    return Labels(beton.n, split.labelled, stored_labels(beton)[split.labelled])


def label_counts(beton: Beton, split: Split) -> np.ndarray:
    """Count the labels of each class that the split shows, i64 [C]."""
    return np.bincount(stored_labels(beton)[split.labelled], minlength=len(split.classes))


def stored_labels(beton: Beton) -> np.ndarray:
    """Every label of a file, i64 [n], a view of it: for drawing, never for training."""
    return metadata(beton.data, beton.n)["label"]


def classes_of(beton: Beton) -> tuple[str, ...]:
    """The classes of a file. Raises InputError if it has none."""
    if beton.manifest.classes is None:
        raise InputError(f"{beton.path} has no labels to split; convert a folder of class folders or a CSV with labels")
    return beton.manifest.classes


def checked(labels: np.ndarray, manifest: Manifest, split: Split, origin: str) -> Split:
    """The split, once its ids are ids of labelled samples, its classes the file's, and each of them has a label."""
    ids, classes = split.labelled, manifest.classes or ()
    if split.classes != classes:
        raise InputError(f"{origin}: {_difference(split.classes, classes)}; make the split again")
    if not ids.size:
        raise InputError(f"{origin}: expected samples to label, got none")
    if (np.diff(ids) <= 0).any() or ids[0] < 0 or ids[-1] >= manifest.n:
        raise InputError(f"{origin}: expected sorted, different ids below {manifest.n}; make the split again")
    counts = np.bincount(labels[ids] + 1, minlength=len(classes) + 1)
    if counts[0]:
        raise InputError(f"{origin}: expected samples with a label, got {counts[0]} without one")
    empty = np.flatnonzero((counts[1:] == 0) & (np.array(manifest.class_counts) > 0))
    if empty.size:
        raise InputError(f"{origin}: expected labels of every class, {empty.size} have none ({classes[empty[0]]}, ...)")
    pool = split.unlabelled
    if pool is not None:
        wrong = not pool.size or (np.diff(pool) <= 0).any() or pool[0] < 0 or pool[-1] >= manifest.n
        if wrong or np.isin(pool, ids, assume_unique=True).any():
            raise InputError(
                f"{origin}: expected unlabelled images as sorted, different ids below {manifest.n}, some, and none of "
                "them labelled; make the split again"
            )
    return split


def _difference(found: Sequence[str], expected: Sequence[str]) -> str:
    if len(found) != len(expected):
        return f"expected the file's {count(len(expected), 'class')}, got {len(found)}"
    i = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    return f"expected {expected[i]!r} for class {i}, as in the file, got {found[i]!r}"
