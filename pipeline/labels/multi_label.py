"""Keep several labels an image beside a .beton, which has room for one: `<file>.beton.labels`, with a checksum.

save_multi_labels(beton, [(0, 14), (6,), ...])
load_multi_labels(beton)        # f32 [n, C], 1 where an image has the label; None where there is no such file

Such a .beton names its classes and has no label in it, so that nothing learns from one label of an image as if it were
all of them. The file quotes the digest of its .beton, which covers images, order and class names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.store.atomic_write import write_whole
from pipeline.store.beton import Beton
from pipeline.store.checksummed_json import content, to_text

FORMAT = 1


def multi_label_path(beton: Path) -> Path:
    """train.beton -> train.beton.labels."""
    return beton.with_name(beton.name + ".labels")


def save_multi_labels(beton: Beton, labels: Sequence[Sequence[int]]) -> Path:
    """Write the labels of each sample, in the order of the file; an image may have none.

    Raises ValueError unless there are as many as samples, each from 0 to C - 1, and InputError if the disk refuses.
    """
    _table(labels, beton)
    path = multi_label_path(beton.path)
    found = {"format": FORMAT, "beton": beton.digest, "labels": [sorted({*each}) for each in labels]}
    try:
        write_whole(path, to_text(found))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def load_multi_labels(beton: Beton) -> np.ndarray | None:
    """Return f32 [n, C], 1 where sample i has label c, else 0; None where no labels lie beside the file.

    Raises InputError if they were changed, or are those of another file.
    """
    path = multi_label_path(beton.path)
    if not path.exists():
        return None
    try:
        found = content(path.read_bytes(), FORMAT)
        if found.get("beton") != beton.digest:
            raise ValueError(f"it was written for another file than {beton.path.name}")
        return _table(found.get("labels"), beton)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as labels ({error}); prepare the data set again") from None


def _table(labels: Any, beton: Beton) -> np.ndarray:
    classes = len(beton.manifest.classes or ())
    if not isinstance(labels, Sequence) or len(labels) != beton.n:
        raise ValueError(f"expected a list of the labels of {beton.n} samples")
    table = np.zeros((beton.n, classes), np.float32)
    for i, each in enumerate(labels):
        if not all(type(label) is int and 0 <= label < classes for label in each):
            raise ValueError(f"expected labels from 0 to {classes - 1}, got {list(each)} for sample {i}")
        table[i, list(each)] = 1
    return table
