"""Make a .beton of photograph-like images, to measure the data path where no data is given.

path = photographs(context)
"""

from pathlib import Path
from typing import final

import numpy as np
from PIL import Image

from models.doctor.stage import Context
from pipeline.convert.conversion import Options, convert
from pipeline.sources.source import Source
from pipeline.store.beton import Beton, open_beton

COUNT, LONG, SHORT = 96, 500, 375
"""Images, and their sides: ImageNet's photographs have 500 x 400 pixels on average."""
NOISE = 8
"""Standard deviation of the noise, in levels: a JPEG of quality 90 then takes about as many bytes as a photograph."""


@final
class Photographs(Source):
    """Smooth colours under noise, upright and across, in four classes."""

    classes = ("ant", "bee", "cat", "dog")

    def __init__(self, count: int = COUNT) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        return f"{i:04d}.png"

    def read(self, i: int) -> tuple[Image.Image, int]:
        chance = np.random.default_rng(i)
        size = (LONG, SHORT) if i % 3 else (SHORT, LONG)
        colours = Image.fromarray(chance.integers(0, 256, (6, 6, 3), np.uint8))
        smooth = np.asarray(colours.resize(size, Image.Resampling.BICUBIC), np.int16)
        noise = chance.normal(0, NOISE, smooth.shape[:2])[..., None].astype(np.int16)
        return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)), i % 4


def photographs(context: Context) -> Path:
    """Return the .beton to measure with: the one that was given, or one that is made once for all stages."""
    if context.data is not None:
        return context.data
    path = context.folder / "photographs.beton"
    if not path.exists():
        convert(Photographs(), path, Options(overwrite=True))
    return path


def open_photographs(context: Context) -> Beton:
    """Open the .beton to measure with."""
    return open_beton(photographs(context))
