"""Open the data sets of a few-shot suite: folders with a train.beton and a test.beton."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from pipeline.errors import InputError
from pipeline.open import open_data
from pipeline.sources.classes import difference
from pipeline.spec import Data
from pipeline.store.beton import Beton

TRAIN, VAL, TEST = "train.beton", "val.beton", "test.beton"


@final
@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set; `val` is None unless its labels may be used to select settings."""

    name: str
    train: Beton
    test: Beton
    val: Beton | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in label order, which every file shares."""
        return self.train.manifest.classes or ()


def open_suite(entries: Sequence[str], data: Data, test: str = TEST, val: str | None = None) -> list[DataSet]:
    """Open every data set, given as "name=folder" or "folder", whose last part is then the name.

    Raises InputError for two sets of one name, a missing file, files without labels or of different classes, and for
    selecting on the file that is tested on.
    """
    if val == test:
        raise InputError(f"{test} cannot both select and be tested on; give another --data.file, or --select shots")
    named = [_named(entry) for entry in entries]
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two sets are called {twice[0]}; name them: --suite a=FOLDER b=FOLDER")
    return [_open(name, replace(data, root=root), test, val) for name, root in named]


def _named(entry: str) -> tuple[str, str]:
    name, given, root = entry.rpartition("=")
    if (given and not name) or not root:
        raise InputError(f"--suite {entry}: expected FOLDER or NAME=FOLDER")
    return name or Path(root).resolve().name, root


def _open(name: str, data: Data, test: str, val: str | None) -> DataSet:
    train = open_data(data, TRAIN)
    opened = [open_data(data, test), *([open_data(data, val)] if val else [])]
    if train.manifest.classes is None or len(train.manifest.classes) < 2:
        came = "none" if train.manifest.classes is None else train.manifest.classes
        raise InputError(f"{train.path}: expected at least two classes, got {came}; convert a folder of class folders")
    for beton in opened:
        if beton.manifest.classes != train.manifest.classes:
            both = beton.manifest.classes or (), train.manifest.classes
            how = difference(*both, f"in {beton.path.name}", f"in {train.path.name}")
            raise InputError(
                f"{beton.path} has other classes than {train.path}: {how}; convert it with --classes-from {train.path}"
            )
    return DataSet(name, train, opened[0], opened[1] if val else None)
