"""Which labels may be seen: class-balanced and seeded, or a published list. JSON beside the .beton it was made for.

`python -m pipeline.split make BETON --fraction 0.1` or `--per-class 25`;
`python -m pipeline.split import BETON LIST --name semiformer10`.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np

from pipeline.errors import InputError
from pipeline.labels.known import Labels, every_label
from pipeline.store.beton import Beton
from pipeline.store.file_format import metadata
from pipeline.store.sample_names import read_names

FORMAT = 1


@final
@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one .beton whose labels may be seen.

    beton_digest  the file it was made for, of `n` samples
    seed          of the draw, None for a published list
    labelled      i64 [L], sample ids, sorted
    """

    name: str
    beton_digest: str
    n: int
    seed: int | None
    classes: tuple[str, ...]
    labelled: np.ndarray = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of file and ids, hex: equal for equal knowledge, whatever the split is called."""
        return hashlib.sha256(self.beton_digest.encode() + self.labelled.astype("<i8").tobytes()).hexdigest()


def split_path(beton: Path, name: str) -> Path:
    """train.beton, "0.10" -> train.split-0.10.json."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"expected a split name of letters, digits, '.', '-' and '_', got {name!r}")
    return beton.with_name(f"{beton.stem}.split-{name}.json")


def split_name(fraction: float | None, per_class: int | None, seed: int) -> str:
    """0.1 -> "0.10", 4 a class -> "4-per-class"; a seed other than 0 is appended: "4-per-class-1"."""
    if (fraction is None) == (per_class is None):
        raise InputError("expected either a fraction or a number per class")
    if fraction is not None and not 0 < fraction <= 1:
        raise InputError(f"expected a fraction above 0 and up to 1, got {fraction}")
    if per_class is not None and per_class < 1:
        raise InputError(f"expected at least 1 label per class, got {per_class}")
    if seed < 0:
        raise InputError(f"expected a seed of 0 or more, got {seed}")
    if fraction is None:
        base = f"{per_class}-per-class"
    else:
        base = f"{fraction:.2f}" if round(fraction, 2) == fraction else f"{fraction}"
    return f"{base}-{seed}" if seed else base


def make_split(
    beton: Beton, *, fraction: float | None = None, per_class: int | None = None, seed: int = 0, name: str | None = None
) -> Split:
    """Draw the same share of every class (rounded, at least one) or the same number, without replacement.

    With one seed smaller splits are subsets of larger ones. Classes without any labelled image are left out.
    Raises InputError if a class has fewer images than asked for, or the file has no labels.
    """
    name = name or split_name(fraction, per_class, seed)
    classes, chosen = _classes(beton), [np.empty(0, np.int64)]
    labels = _labels(beton).astype(np.min_scalar_type(-len(classes) - 1))  # numpy sorts small types much faster
    by_class, ends = np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels + 1, minlength=len(classes) + 1))
    for label, k in enumerate(labels_each(classes, beton.manifest.class_counts, fraction, per_class)):
        ids = by_class[ends[label] : ends[label + 1]]
        chosen.append(np.random.default_rng([seed, label]).permutation(ids)[:k])
    ids = np.sort(np.concatenate(chosen))
    return _checked(beton, Split(name, beton.digest, beton.n, seed, classes, ids), "the draw")


def labels_each(
    classes: Sequence[str], counts: Sequence[int], fraction: float | None, per_class: int | None
) -> list[int]:
    """How many of each class's images a draw labels. Raises InputError if a class has fewer, but some."""
    wanted = [max(1, round(fraction * count)) if per_class is None else per_class for count in counts]
    for name, count, k in zip(classes, counts, wanted, strict=True):
        if 0 < count < k:
            raise InputError(f"expected {k} images of class {name} to label, it has {count}; ask for {count} or fewer")
    return wanted


def import_list(beton: Beton, path: str | Path, name: str) -> Split:
    """The split of a published list, such as FixMatch's and Semiformer's: one file name a line.

    A line is the sample's name (`pipeline.store.sample_names`) or the last part of it, and may go on after a comma or a blank.
    Raises InputError if a line names no sample or several.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a list of file names ({error})") from None
    places: dict[str, int] = {}
    for i, sample in enumerate(read_names(beton)):
        last = sample.rsplit("/", 1)[-1]
        for key in {sample, last}:
            places[key] = -1 if key in places else i
    found = [places.get(line, places.get(re.split(r"[,\s]", line, maxsplit=1)[0])) for line in lines if line]
    wrong = [line for line, i in zip(filter(None, lines), found, strict=True) if i is None or i < 0]
    if wrong:
        raise InputError(
            f"{path}: {len(wrong)} of {len(found)} lines name no sample of {beton.path} or several: {wrong[0]}, ..."
        )
    ids = np.unique(np.array(found, np.int64))
    return _checked(beton, Split(name, beton.digest, beton.n, None, _classes(beton), ids), str(path))


def save_split(beton: Beton, split: Split) -> Path:
    """Write `<stem>.split-<name>.json` beside the file, whole or not at all, and only if the whole index holds."""
    beton.settle()
    path = split_path(beton.path, split.name)
    found = {
        "format": FORMAT,
        "name": split.name,
        "beton": split.beton_digest,
        "n": split.n,
        "seed": split.seed,
        "classes": split.classes,
        "labelled": split.labelled.tolist(),
    }
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(found) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # a disk that lets nobody write lets nobody remove
            partial.unlink()
    return path


def load_split(beton: Beton, name: str) -> Split:
    """The split `name` of this file.

    Raises InputError if there is none (and lists those there are), if it was made for another file, or if it leaves a
    class without labels.
    """
    path = split_path(beton.path, name)
    if not path.is_file():
        known = ", ".join(splits(beton)) or "none"
        make = f"python -m pipeline.split make {beton.path} --fraction 0.1, or --per-class 25"
        raise InputError(f"{beton.path} has no split {name!r}, it has: {known}; make one with {make}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        ids = np.array(found["labelled"], np.int64)
        split = Split(found["name"], found["beton"], found["n"], found["seed"], tuple(found["classes"]), ids)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected a split file ({error!r}); make it again with pipeline.split") from None
    if found.get("format") != FORMAT:
        raise InputError(f"{path}: expected format {FORMAT}, got {found.get('format')}; make it with pipeline.split")
    if (split.n, split.beton_digest) != (beton.n, beton.digest):
        made, has = f"{split.n} images (digest {split.beton_digest[:8]})", f"{beton.n} (digest {beton.digest[:8]})"
        raise InputError(f"{path} was made for {made}, {beton.path} has {has}; run pipeline.convert with --split again")
    return _checked(beton, split, str(path))


def splits(beton: Beton) -> list[str]:
    """Names of the splits that lie beside a file."""
    start, end = f"{beton.path.stem}.split-", ".json"
    names = (path.name for path in beton.path.parent.iterdir())
    return sorted(name[len(start) : -len(end)] for name in names if name.startswith(start) and name.endswith(end))


def known_labels(beton: Beton, split: Split | None) -> Labels:
    """The labels that the split allows to see; without a split every one.

    Only the rows that may be seen are read, so memory never holds another label.
    Raises InputError if the split was made for another file.
    """
    if split is None:
        return every_label(_labels(beton), beton.manifest.n_unlabelled)
    if split.beton_digest != beton.digest:
        raise InputError(f"the split {split.name} was made for another file than {beton.path}")
    return Labels(beton.n, split.labelled, _labels(beton)[split.labelled])


def _labels(beton: Beton) -> np.ndarray:
    return metadata(beton.data, beton.n)["label"]


def _classes(beton: Beton) -> tuple[str, ...]:
    if beton.manifest.classes is None:
        raise InputError(f"{beton.path} has no labels to split; convert a folder of class folders or a CSV with labels")
    return beton.manifest.classes


def _checked(beton: Beton, split: Split, origin: str) -> Split:
    """The split, once its ids are ids of labelled samples and every class of the file has one."""
    ids, classes = split.labelled, _classes(beton)
    if not ids.size:
        raise InputError(f"{origin}: expected samples to label, got none")
    if ids.ndim != 1 or (np.diff(ids) <= 0).any() or ids[0] < 0 or ids[-1] >= beton.n:
        raise InputError(f"{origin}: expected sorted, different ids below {beton.n}; make the split again")
    counts = np.bincount(_labels(beton)[ids] + 1, minlength=len(classes) + 1)
    if counts[0]:
        raise InputError(f"{origin}: expected samples with a label, got {counts[0]} without one")
    empty = np.flatnonzero((counts[1:] == 0) & (np.array(beton.manifest.class_counts) > 0))
    if empty.size:
        raise InputError(f"{origin}: expected labels of every class, {empty.size} have none ({classes[empty[0]]}, ...)")
    return split
