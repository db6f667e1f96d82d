"""Small real .beton files for the tests of the data path."""

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.backends import dali_pipe
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.labels.splits import make_split, save_split
from pipeline.sources.source import Source
from pipeline.store.beton import Beton, open_beton


class Smooth(Source):
    """60 smooth photographs-to-be of different sizes in three classes, one in six without a label."""

    classes = ("ant", "bee", "cat")

    def __len__(self) -> int:
        return 60

    def name(self, i: int) -> str:
        return f"{i:03d}.png"

    def read(self, i: int) -> tuple[Image.Image, int]:
        rng = np.random.default_rng(i)
        size = int(rng.integers(40, 90)), int(rng.integers(40, 90))
        rough = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        return rough.resize(size, Image.Resampling.BICUBIC), -1 if i % 6 == 5 else i % 3


@pytest.fixture(scope="session")
def beton(tmp_path_factory) -> Beton:
    """A .beton of the images above, with the split "2-per-class"."""
    path = Path(tmp_path_factory.mktemp("smooth")) / "train.beton"
    convert(Smooth(), path, Options(side=None, quality=95))
    opened = open_beton(path)
    save_split(opened, make_split(opened, per_class=2))
    return opened


@pytest.fixture(scope="session")
def dali():
    """DALI, or a skip that says what is missing."""
    try:
        return dali_pipe.load()
    except InputError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def nothing_stays():
    """Every thread that a test starts is gone at its end, DALI's own included."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def as_pillow(beton: Beton, i: int) -> Image.Image:
    """Image i decoded by Pillow."""
    return Image.open(io.BytesIO(beton.jpeg(i).tobytes())).convert("RGB")


def image(seed: int, height: int = 24, width: int = 32) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def tree(tmp_path) -> Path:
    """Three classes of ten small JPEGs; the last of each class is a PNG."""
    for i in range(30):
        path = tmp_path / "tree" / f"class{i // 10}" / f"{i}.{'png' if i % 10 == 9 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image(i).save(path)
    return tmp_path / "tree"


def damaged(tree: Path) -> Path:
    """The tree with a truncated image, an empty one, one that is nowhere, and a file that is none."""
    (tree / "class0/0.jpg").write_bytes((tree / "class0/1.jpg").read_bytes()[:-300])
    (tree / "class1/11.jpg").write_bytes(b"")
    (tree / "class1/notes.txt").write_text("x")
    (tree / "class2/gone.jpg").symlink_to("nowhere.jpg")
    return tree


def left(folder: Path) -> set[str]:
    """Names of the files of a folder."""
    return {path.name for path in folder.iterdir() if not path.is_dir()}
