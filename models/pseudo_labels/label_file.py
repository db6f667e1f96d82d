"""Write and read soft labels: class probabilities of every image of one .beton, and which runs gave them.

found = write_labels(Path("labels.json"), LabelFile(beton.digest, beton.n, classes, ...), probabilities)
found, probabilities = read_labels(Path("labels.json"), beton)     # f16 [n, C], a private memory map

The probabilities are a .npy beside the JSON, named by their hash: 2 bytes for each image and class, 2.6 GB for
ImageNet. The JSON, which has a checksum of its own, quotes their SHA-256 and the digest of the .beton, so labels that
can be read are whole and mean exactly these images, in this order.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, final, get_type_hints

import numpy as np

from pipeline.errors import InputError
from pipeline.sources.classes import difference
from pipeline.store.atomic_write import write_whole
from pipeline.store.beton import Beton
from pipeline.store.checksummed_json import content, to_text
from pipeline.store.json_types import typed

FORMAT = 1
ROWS = 1 << 14
"""Rows that are checked at once."""
UNIT = 0.01
"""How far from 1 the sum of a row may be, as float16 rounds."""


@final
@dataclass(frozen=True)
class Labeller:
    """A run that gave labels: its checkpoint, the name of its recipe, its step, and the SHA-256 of the checkpoint."""

    path: str
    recipe: str
    step: int
    sha256: str


@final
@dataclass(frozen=True)
class LabelFile:
    """Facts about a file of soft labels.

    beton         digest of the .beton that the labels are of, with `n` images
    classes       names, in the order of the probabilities
    average       what was averaged over the runs: probabilities, or labels (one-hot)
    temperature   of each run's softmax
    undecodable   ids of images that no run saw, as they no longer decode; their label is uniform
    array         name of the .npy beside the JSON, and its hash
    """

    beton: str
    n: int
    classes: tuple[str, ...]
    average: str
    temperature: float
    undecodable: tuple[int, ...]
    runs: tuple[Labeller, ...]
    array: str = ""
    array_sha256: str = ""


def write_labels(path: Path, labels: LabelFile, probabilities: np.ndarray) -> LabelFile:
    """Write probabilities, f16 [n, C], and the JSON that vouches for them, both or neither; -> with the array's name
    and hash.

    The array comes first and under a name of its own, so that whatever a kill leaves, the JSON and the array that it
    names are of one piece. An array that the JSON named before is removed. Raises InputError for rows that are no
    probabilities, or if the disk refuses.
    """
    check_rows(probabilities, labels.n, labels.classes)
    before = _array_of(path)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.npy.partial")
    try:
        with partial.open("wb") as file:
            np.save(file, probabilities)
            file.flush()
            os.fsync(file.fileno())
        digest = file_sha256(partial)
        found = replace(labels, array=f"{path.stem}-{digest[:12]}.npy", array_sha256=digest)
        array = path.with_name(found.array)
        os.replace(partial, array)
        try:
            write_whole(path, to_text({"format": FORMAT, **asdict(found)}, indent=1))
        except BaseException:
            if before != found.array:
                array.unlink()
            raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    if before not in (None, found.array):
        path.with_name(str(before)).unlink(missing_ok=True)
    return found


def read_labels(path: Path, beton: Beton) -> tuple[LabelFile, np.ndarray]:
    """Read the soft labels of a .beton: what is known of them, and the probabilities f16 [n, C], memory-mapped, of
    which a change stays in this process.

    Raises InputError if a file is missing or damaged, or of another .beton or other classes.
    """
    out = path if path.suffix == ".json" and not path.is_dir() else "labels.json"
    again = f"make them with `python -m models.pseudo_label RUN... --data {beton.path} --out {out}`"
    try:
        found = _label_file(content(path.read_bytes(), FORMAT))
    except OSError as error:
        raise InputError(f"{path}: expected soft labels ({error.strerror}); {again}") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be read as soft labels ({error}); {again}") from None
    if found.beton != beton.digest:
        theirs, ours = f"{found.n:,} images, digest {found.beton[:8]}", f"{beton.n:,}, digest {beton.digest[:8]}"
        raise InputError(f"{path} holds soft labels of another file ({theirs}) than {beton.path} ({ours}); {again}")
    classes = beton.manifest.classes or ()
    if classes and found.classes != classes:
        told = difference(found.classes, classes, f"in {path.name}", f"in {beton.path.name}")
        raise InputError(f"{path} has other classes than {beton.path}: {told}; {again}")
    return found, _array(path, found, again)


def check_rows(probabilities: np.ndarray, n: int, classes: Sequence[str]) -> None:
    """Raise InputError unless every row of an array, f16 [n, C], is a distribution over the classes."""
    shape = n, len(classes)
    if probabilities.shape != shape or probabilities.dtype != np.float16:
        came = f"{probabilities.dtype} {list(probabilities.shape)}"
        raise InputError(f"expected soft labels of float16 {list(shape)}, got {came}")
    for first in range(0, n, ROWS):
        rows = probabilities[first : first + ROWS].astype(np.float32)
        wrong = ~((rows >= 0).all(1) & (np.abs(rows.sum(1) - 1) <= UNIT))  # not finite is wrong, too
        if wrong.any():
            image = first + int(np.flatnonzero(wrong)[0])
            raise InputError(f"expected probabilities of sum 1 for each image, image {image} has others")


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _array(path: Path, found: LabelFile, again: str) -> np.ndarray:
    array = path.with_name(found.array)
    try:
        if file_sha256(array) != found.array_sha256:
            raise InputError(f"{array} was changed after it was written, by its hash in {path.name}; {again}")
        rows = np.load(array, mmap_mode="c", allow_pickle=False)
    except OSError as error:
        raise InputError(f"{array}: expected the probabilities of {path.name} ({error.strerror}); {again}") from None
    if rows.shape != (found.n, len(found.classes)) or rows.dtype != np.float16:
        raise InputError(f"{array} holds {rows.dtype} {list(rows.shape)}, not what {path.name} says; {again}")
    return rows


def holds_labels(path: Path) -> bool:
    """Say whether a file holds soft labels, whole or with its array lost."""
    return _array_of(path) is not None


def _array_of(path: Path) -> str | None:
    """The name of the array of the soft labels that `path` holds by now, None if it holds none."""
    try:
        return _label_file(content(path.read_bytes(), FORMAT)).array
    except (OSError, ValueError):
        return None


def _label_file(found: dict[str, Any]) -> LabelFile:
    """Raises ValueError if a field is missing, unknown, of another type, or says what cannot be."""
    found.pop("format")
    runs = tuple(_dataclass(Labeller, each, "runs") for each in typed(found.pop("runs", None), tuple[Any, ...], "runs"))
    made = _dataclass(LabelFile, found | {"runs": []}, "labels")
    if not all(re.fullmatch("[0-9a-f]{64}", each) for each in (made.beton, made.array_sha256)):
        raise ValueError("expected hashes of 64 hexadecimal digits")
    if Path(made.array).name != made.array or not made.array.endswith(".npy"):
        raise ValueError(f"array: expected the name of a .npy beside it, got {made.array!r:.40}")
    return replace(made, runs=runs)


def _dataclass(kind: Any, found: Any, where: str) -> Any:
    if type(found) is not dict or found.keys() != {each.name for each in fields(kind)}:
        raise ValueError(f"{where}: expected {', '.join(each.name for each in fields(kind))}")
    hints = get_type_hints(kind) | ({"runs": tuple[Any, ...]} if kind is LabelFile else {})
    return kind(**{name: typed(value, hints[name], name) for name, value in found.items()})
