"""Write scikit-learn's 1,797 digits as .beton files: the embedded data set, so that the first run needs no download.

ensure_digits("data/digits")
"""

import tempfile
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image

from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.labels.splits import load_split, make_split, save_split, split_name
from pipeline.sources.source import Pixels, Source
from pipeline.store.beton import open_beton

SIDE = 32
PER_CLASS = {"val": 30, "test": 30}  # the rest, 1,197 images, is train.beton
SPLITS = tuple((k, seed) for k in (1, 5, 25) for seed in range(3))  # labels a class: "5-per-class", "5-per-class-1"
OPTIONS = Options(side=None, quality=95, max_bad=0)


@final
class _Digits(Source):
    """Some of the digits; images f64 [N, 8, 8], 0..16.

    Enlarged bicubically, not by repeating pixels: four equal pixels in a row would make every 4 x 4 patch of the
    network one flat colour, and a masked patch a single number to guess.
    """

    labels: np.ndarray

    def __init__(self, ids: np.ndarray, images: np.ndarray, labels: np.ndarray) -> None:
        self.ids, self.images, self.labels = ids, images, labels
        self.classes = tuple(map(str, range(10)))

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, i: int) -> str:
        return f"digit-{self.ids[i]:04d}"

    def read(self, i: int) -> tuple[Pixels, int]:
        pixels = np.rint(self.images[self.ids[i]] * (255 / 16)).astype(np.uint8)
        large = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return large, int(self.labels[self.ids[i]])


def ensure_digits(root: str | Path) -> Path:
    """Write train.beton (1,197 images), val.beton (300), test.beton (300) and the splits of train; -> root.

    Nothing is done where all of them are valid; files of an older format are not, and are written again. Several
    processes may call this at once: they write equal files, and each is renamed into place whole.

    Raises InputError if the folder cannot be written.
    """
    root = Path(root)
    if not _valid(root):
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".digits-") as building:
                _build(Path(building))
                written = sorted(Path(building).iterdir(), key=lambda path: path.suffix == ".beton")
                for path in written:  # each .beton after what belongs to it
                    path.replace(root / path.name)
        except OSError as error:
            raise InputError(f"the digits cannot be written to {root}: {error.strerror or error}") from error
    return root


def _valid(root: Path) -> bool:
    try:
        betons = {name: open_beton(root / f"{name}.beton") for name in ("train", *PER_CLASS)}
        for k, seed in SPLITS:
            load_split(betons["train"], split_name(None, k, seed))
    except InputError:
        return False
    return True


def _build(folder: Path) -> None:
    from sklearn.datasets import load_digits  # here, because importing it takes a second that most runs need not spend

    digits = load_digits()
    rest = [np.random.default_rng(label).permutation(np.flatnonzero(digits.target == label)) for label in range(10)]
    for name, k in {**PER_CLASS, "train": None}.items():
        ids = np.sort(np.concatenate([some[:k] for some in rest]))
        rest = [some[k:] if k else some for some in rest]
        convert(_Digits(ids, digits.images, digits.target), folder / f"{name}.beton", OPTIONS)
    train = open_beton(folder / "train.beton")
    for k, seed in SPLITS:
        save_split(train, make_split(train, per_class=k, seed=seed))
