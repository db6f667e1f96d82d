"""Measure a run on CIFAR-10-C's own files (Hendrycks and Dietterich 2019).

NAME.npy is u8 [5 n, 32, 32, 3], the same n test images at severity 1, then at 2, up to 5; labels.npy has their class
numbers [5 n].
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.evaluate.distribution_shift import paired, share_wrong
from models.evaluate.evaluator import Evaluator
from models.load import Loaded
from pipeline.errors import InputError
from pipeline.evaluation.arrays import sweep_pixels
from pipeline.evaluation.corruptions.corrupt import SEVERITIES
from pipeline.evaluation.corruptions.stream import CorruptionSpec
from pipeline.text import count, some

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LABELS = "labels.npy"


def array_errors(evaluator: Evaluator, loaded: Loaded, root: Path, wanted: Sequence[CorruptionSpec]) -> list[float]:
    """Measure the error, 0 to 1, under each corruption of `wanted`. Images are cut as the run's own test images are.

    Raises InputError, before anything is measured, for a file that is missing or of another layout, and for a run whose
    classes are not CIFAR-10's, by their names or as numbers.
    """
    labels = _labels(root / LABELS)
    columns = columns_of(loaded, labels, root)
    pixels = {name: _pixels(root / f"{name}.npy", len(labels)) for name in dict.fromkeys(each.name for each in wanted)}
    data, device = evaluator.data_of(loaded), next(loaded.method.parameters()).device
    n, found = len(labels) // len(SEVERITIES), []
    for name, severity in wanted:
        images = slice((severity - 1) * n, severity * n)
        batches = sweep_pixels(pixels[name][images], data, device, evaluator.batch)
        found.append(share_wrong(loaded, paired(batches, labels[images]), columns)[0])
    return found


def columns_of(loaded: Loaded, labels: np.ndarray, root: Path) -> np.ndarray:
    """Return the place of each class number among the run's classes: i64 [C]. Raises InputError where it is unknown."""
    number = {name: i for i, name in enumerate(loaded.classes)}
    names = CLASSES if set(CLASSES) == set(number) else tuple(map(str, range(len(number))))
    if set(names) != set(number) or int(labels.max()) >= len(number):
        known = count(len(number), "class")
        raise InputError(
            f"{root / LABELS} has class numbers up to {labels.max()}, {loaded.path} tells {known} apart "
            f"({some(loaded.classes)}); expected CIFAR-10's names ({some(CLASSES)}) or "
            "numbers from 0"
        )
    return np.array([number[name] for name in names], np.int64)


def _labels(path: Path) -> np.ndarray:
    labels = _opened(path)
    severities = len(SEVERITIES)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) or len(labels) % severities:
        raise InputError(
            f"{path}: expected class numbers [{severities} n], severity after severity, got {_form(labels)}"
        )
    if labels.min() < 0:
        raise InputError(f"{path}: expected class numbers from 0, got {labels.min()}")
    return labels.astype(np.int64)


def _pixels(path: Path, n: int) -> np.ndarray:
    pixels = _opened(path)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or len(pixels) != n:
        raise InputError(f"{path}: expected u8 [{n}, height, width, 3], as many as {LABELS} has, got {_form(pixels)}")
    return pixels


def _opened(path: Path) -> np.ndarray:
    if not path.exists():
        raise InputError(f"{path}: expected CIFAR-10-C's NAME.npy and {LABELS} in this folder; it is not there")
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:  # what numpy raises for no array, or one that is cut short
        raise InputError(f"{path} is no whole .npy file ({str(error).splitlines()[0]}); fetch it again") from error


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
