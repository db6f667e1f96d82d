"""Open the data sets of a few-shot suite: folders with a train.beton and a test.beton, or folders of such folders that
`python -m pipeline.elevater` has prepared."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from pipeline.elevater.catalogue import CATALOGUE, Metric
from pipeline.elevater.prepare import FACTS, read_prepared
from pipeline.errors import InputError
from pipeline.labels.multi_label import multi_label_path
from pipeline.open import open_data
from pipeline.sources.classes import difference, how_to_agree
from pipeline.sources.levels import check_same_window, window_of
from pipeline.spec import Data
from pipeline.store.beton import Beton

TRAIN, VAL, TEST = "train.beton", "val.beton", "test.beton"


@final
@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set; `val` is None unless its labels may be used to select settings.

    metric     that of its benchmark; None where the flags name one
    benchmark  ELEVATER's name of a set that `pipeline.elevater` has prepared
    remarks    a full line each: how it differs from the published set
    """

    name: str
    train: Beton
    test: Beton
    val: Beton | None
    metric: Metric | None = None
    benchmark: str | None = None
    remarks: tuple[str, ...] = field(default=(), repr=False)

    @property
    def several(self) -> bool:
        """Say whether an image may have several labels."""
        return multi_label_path(self.train.path).exists()

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in label order, which every file shares."""
        return self.train.manifest.classes or ()


def open_suite(entries: Sequence[str], data: Data, test: str = TEST, val: str | None = None) -> list[DataSet]:
    """Open every data set, given as "name=folder" or "folder", whose last part is then the name.

    A folder without a train.beton, but with folders that `pipeline.elevater` has prepared, stands for all of these,
    under ELEVATER's names.

    Raises InputError for two sets of one name, a missing file, files without labels or of different classes, and for
    selecting on the file that is tested on.
    """
    if val == test:
        raise InputError(f"{test} cannot both select and be tested on; give another --data.file, or --select shots")
    named = [each for entry in entries for each in _several(*_named(entry))]
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two sets are called {twice[0]}; name them: --suite a=FOLDER b=FOLDER")
    return [_open(name, replace(data, root=root), test, val) for name, root in named]


def _named(entry: str) -> tuple[str, str]:
    name, given, root = entry.rpartition("=")
    if (given and not name) or not root:
        raise InputError(f"--suite {entry}: expected FOLDER or NAME=FOLDER")
    return name or Path(root).resolve().name, root


def _several(name: str, root: str) -> list[tuple[str, str]]:
    """Return the name and folder of one set, or of each prepared set in the folder, in ELEVATER's order."""
    folder = Path(root)
    if (folder / TRAIN).is_file() or not folder.is_dir():
        return [(name, root)]
    made = {each.name: str(path.parent) for path in folder.glob(f"*/{FACTS}") if (each := read_prepared(path.parent))}
    return [(each, made[each]) for each in CATALOGUE if each in made] or [(name, root)]


def _open(name: str, data: Data, test: str, val: str | None) -> DataSet:
    train = open_data(data, TRAIN)
    opened = [open_data(data, test), *([open_data(data, val)] if val else [])]
    if train.manifest.classes is None or len(train.manifest.classes) < 2:
        came = "none" if train.manifest.classes is None else train.manifest.classes
        raise InputError(f"{train.path}: expected at least two classes, got {came}; convert a folder of class folders")
    for beton in opened:
        check_same_window(beton.path, beton.manifest, window_of(train.manifest), str(train.path))
        if beton.manifest.classes != train.manifest.classes:
            both = beton.manifest.classes or (), train.manifest.classes
            how = difference(*both, f"in {beton.path.name}", f"in {train.path.name}")
            raise InputError(
                f"{beton.path} has other classes than {train.path}: {how}; {how_to_agree(*both, train.path)}"
            )
    made = read_prepared(Path(data.root))
    if made is None:
        return DataSet(name, train, opened[0], opened[1] if val else None)
    for beton in (train, *opened):
        split = beton.path.name.removesuffix(".beton")
        if made.digests.get(split) != beton.digest:
            raise InputError(f"{beton.path} is not the file that {FACTS} beside it was written for; prepare it again")
    remarks = tuple(f"{name} differs: {line}." for line in made.differs)
    return DataSet(name, train, opened[0], opened[1] if val else None, made.metric, made.name, remarks)
