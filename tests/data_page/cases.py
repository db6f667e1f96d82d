"""What the rows of docs/data.md name, made: a function for each row yields the cases that it stands for."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.convert.conversion import Options
from pipeline.sources.reading import FOUND_OUT, Reading
from pipeline.store.beton import Beton


class Case(NamedTuple):
    """Something to convert.

    source      what `convert` is given
    about       the name of the one image whose outcome counts; None where the whole source is meant
    unlabelled  a folder of images that are added without labels
    check       what must hold of the file that was written
    instead     called with the output path in place of the conversion
    """

    source: Any = None
    about: str | None = None
    options: Options = Options(max_bad=1)
    reading: Reading = FOUND_OUT
    unlabelled: Path | None = None
    check: Callable[[Beton], bool] = lambda _: True
    instead: Callable[[Path], object] | None = None


Builder = Callable[[Path], Iterator[Case]]
ROWS: dict[str, Builder] = {}


def row(name: str) -> Callable[[Builder], Builder]:
    """Register the builder of a row, by the text of its first column."""

    def registered(builder: Builder) -> Builder:
        assert name not in ROWS
        ROWS[name] = builder
        return builder

    return registered


def picture(height: int = 48, width: int = 64, seed: int = 0) -> Image.Image:
    """Smooth colours, each side of which is different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def stored(image: Image.Image | None = None, kind: str = "JPEG", **options: Any) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    (picture() if image is None else image).save(out, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)
    return out.getvalue()


def lay(root: Path, files: dict[str, bytes]) -> Path:
    """Write files below `root`, by relative name; a name that ends in a slash is an empty folder."""
    for name, data in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def beside_a_good_one(root: Path, name: str, data: bytes | None, **more: Any) -> Case:
    """A folder with one good JPEG, and the file whose outcome counts; None where it is there already."""
    lay(root, {"good.jpg": stored(picture(seed=9))} | ({} if data is None else {name: data}))
    return Case(root, name, **more)


def options(**changes: Any) -> Options:
    """Options under which any share of bad images is allowed."""
    return replace(Options(max_bad=1), **changes)
