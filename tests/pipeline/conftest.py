"""Small real .beton files for the tests of the data path."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.beton import Beton, open_beton
from pipeline.convert import Options, convert
from pipeline.sources import Source
from pipeline.split import make_split, save_split


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


def as_pillow(beton: Beton, i: int) -> Image.Image:
    """Image i decoded by Pillow."""
    return Image.open(io.BytesIO(beton.jpeg(i).tobytes())).convert("RGB")
