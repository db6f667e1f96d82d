"""Draw which labels may be seen, class-balanced and seeded, or take a published list; save and load the choice.

save_split(beton, make_split(beton, per_class=25))      # train.split-25-per-class.json, beside train.beton
labels = known_labels(beton, load_split(beton, "25-per-class"))

`python -m pipeline.split make BETON --fraction 0.1` or `--per-class 25`;
`python -m pipeline.split import BETON LIST --name semiformer10`.
"""

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from pipeline.errors import InputError
from pipeline.labels.known import Labels, every_label
from pipeline.store.atomic_write import write_whole
from pipeline.store.beton import Beton
from pipeline.store.checksummed_json import content, to_text
from pipeline.store.file_format import metadata
from pipeline.store.json_types import typed
from pipeline.store.manifest import Manifest
from pipeline.store.pending import NEXT, candidates
from pipeline.store.sample_names import escape, read_names
from pipeline.text import count, some

FORMAT = 2
FIELDS = {
    "format": int, "name": str, "beton": str, "n": int, "seed": int | None, "classes": tuple[str, ...],
    "labelled": tuple[int, ...],
}  # fmt: skip


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
    _classes(beton)
    return draw(_labels(beton), beton.manifest, fraction=fraction, per_class=per_class, seed=seed, name=name)


def draw(
    labels: np.ndarray,
    manifest: Manifest,
    *,
    fraction: float | None = None,
    per_class: int | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Split:
    """Draw a split as `make_split` does, of a file that is not open: from its labels i64 [n] and its manifest."""
    name, classes = name or split_name(fraction, per_class, seed), manifest.classes or ()
    chosen = [np.empty(0, np.int64)]
    small = labels.astype(np.min_scalar_type(-len(classes) - 1))  # numpy sorts small types much faster
    by_class, ends = np.argsort(small, kind="stable"), np.cumsum(np.bincount(small + 1, minlength=len(classes) + 1))
    for label, k in enumerate(labels_each(classes, manifest.class_counts, fraction, per_class)):
        ids = by_class[ends[label] : ends[label + 1]]
        chosen.append(np.random.default_rng([seed, label]).permutation(ids)[:k])
    ids = np.sort(np.concatenate(chosen))
    return _checked(labels, manifest, Split(name, manifest.digest, manifest.n, seed, classes, ids), "the draw")


def labels_each(
    classes: Sequence[str], counts: Sequence[int], fraction: float | None, per_class: int | None
) -> list[int]:
    """How many of each class's images a draw labels. Raises InputError if a class has fewer, but some."""
    if per_class is None:
        assert fraction is not None  # one of the two is given
        wanted = [max(1, round(fraction * count)) for count in counts]
    else:
        wanted = [per_class] * len(counts)
    for name, held, k in zip(classes, counts, wanted, strict=True):
        if 0 < held < k:
            need = count(k, "image")
            raise InputError(f"expected {need} of class {name} to label, it has {held}; ask for {held} or fewer")
    return wanted


def import_list(beton: Beton, path: str | Path, name: str) -> Split:
    """The split of a published list, such as FixMatch's and Semiformer's: one file name a line.

    A line is the sample's name (`pipeline.store.sample_names`) or the last part of it, and may go on after a comma or
    a blank. Where what follows are labels, they must agree with the file's classes. Raises InputError if a line names
    no sample, several, one that another line names, too, or another class than the sample has.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a list of file names ({error.strerror})") from None
    places: dict[str, int] = {}
    for i, sample in enumerate(read_names(beton)):
        for key in {sample, sample.rsplit("/", 1)[-1]}:
            places[key] = -1 if key in places else i
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", _decoded(text)) if line.strip()]
    named = [_place(places, line) for line in lines]
    found = [i for i, _ in named]
    wrong = [line for line, i in zip(lines, found, strict=True) if i < 0]
    if wrong:
        few = some([escape(line) for line in wrong])
        raise InputError(f"{path}: {len(wrong)} of {len(lines)} lines name no sample of {beton.path} or several: {few}")
    ids, counts = np.unique(np.array(found, np.int64), return_counts=True)
    if (counts > 1).any():
        twice = escape(lines[found.index(ids[counts > 1][0])])
        raise InputError(f"{path}: {(counts > 1).sum()} samples are named more than once ({twice}, ...); remove a line")
    _check_words(path, lines, named, _labels(beton), _classes(beton))
    return _checked(
        _labels(beton), beton.manifest, Split(name, beton.digest, beton.n, None, _classes(beton), ids), str(path)
    )


def _check_words(
    path: str | Path, lines: list[str], named: list[tuple[int, str]], labels: np.ndarray, classes: tuple[str, ...]
) -> None:
    """Raise InputError if the words behind the names are labels, no more of them than classes, that contradict these.

    A word that is a class's name must stand behind that class's images; any other word behind those of one class.
    """
    meant: dict[str, int] = {}
    if len({word for _, word in named if word}) > len(classes):
        return
    for line, (i, word) in zip(lines, named, strict=True):
        if not word or labels[i] < 0:
            continue
        if meant.setdefault(word, classes.index(word) if word in classes else int(labels[i])) != labels[i]:
            raise InputError(
                f"{path}: {escape(line)} says {escape(word)}, but that image is of class {classes[labels[i]]} in the "
                f".beton, where {escape(word)} means {classes[meant[word]]}; mend the list, or leave the labels out"
            )


def _decoded(text: bytes) -> str:
    """The text of a list in UTF-8 or UTF-16; a byte that is neither stays what it is in a file's name."""
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        return text.decode("utf-16", "replace")
    return text.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _place(places: dict[str, int], line: str) -> tuple[int, str]:
    """The sample that a line names, whole or by its first word, and what follows the name; -1 for none or several.

    Windows separators and a leading "./" are taken as what they mean.
    """
    word, *rest = re.split(r"[,\s]+", line, maxsplit=1)
    for name, after in ((line, ""), (word, rest[0] if rest else "")):
        for form in (name, name.replace("\\", "/").removeprefix("./")):
            if escape(form) in places:
                return places[escape(form)], after
    return -1, ""


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
    }
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
    """The split `name` of this file.

    Raises InputError if there is none (and lists those there are), if it was made for another file or changed since it
    was made, or if it leaves a class without labels.
    """
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
    return _checked(_labels(beton), beton.manifest, split, str(path))


def _split(found: dict[str, Any]) -> Split:
    """Raises ValueError if a field is missing, unknown, or cannot be what it says."""
    if wrong := sorted(found.keys() ^ FIELDS.keys()):
        raise ValueError(f"missing or unknown: {', '.join(wrong)[:200]}")
    f = {name: typed(found[name], kind, name) for name, kind in FIELDS.items()}
    if not re.fullmatch("[0-9a-f]{64}", f["beton"]):
        raise ValueError("beton: expected a digest of 64 hexadecimal digits")
    return Split(f["name"], f["beton"], f["n"], f["seed"], f["classes"], np.array(f["labelled"], np.int64))


def _command(beton: Beton, name: str) -> str:
    """The command that makes the split of this name; of a published list, what is known of it."""
    path = shlex.quote(str(beton.path))
    drawn = re.fullmatch(r"(?:(\d+)-per-class|([\d.]+))(?:-(\d+))?", name)
    if not drawn:
        return f"python -m pipeline.split import {path} LIST --name {name}"
    k, fraction, seed = drawn.groups()
    share = f"--per-class {k}" if k else f"--fraction {fraction}"
    return f"python -m pipeline.split make {path} {share}" + (f" --seed {seed}" if seed else "")


def splits(beton: Beton) -> list[str]:
    """Names of the splits that lie beside a file."""
    start, end = f"{beton.path.stem}.split-", ".json"
    names = {path.name.removesuffix(NEXT) for path in beton.path.parent.iterdir()}
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


def _checked(labels: np.ndarray, manifest: Manifest, split: Split, origin: str) -> Split:
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
    return split


def _difference(found: Sequence[str], expected: Sequence[str]) -> str:
    if len(found) != len(expected):
        return f"expected the file's {count(len(expected), 'class')}, got {len(found)}"
    i = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    return f"expected {expected[i]!r} for class {i}, as in the file, got {found[i]!r}"
