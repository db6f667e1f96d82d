"""Read Python data sets: torchvision's, and Hugging Face's."""

from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from pipeline.errors import InputError
from pipeline.sources.source import Pixels, Source


@final
class Dataset(Source):
    """A Python data set: `item(i)` gives (image, label or None)."""

    def __init__(self, n: int, item: Any, classes: tuple[str, ...] | None) -> None:
        self.n, self.item, self.classes = n, item, classes

    def __len__(self) -> int:
        return self.n

    def name(self, i: int) -> str:
        return str(i)

    def read(self, i: int) -> tuple[Pixels, int]:
        image, label = self.item(i)
        if not isinstance(image, bytes | Image.Image | np.ndarray):
            came = type(image).__name__
            raise InputError(
                f"expected a Pillow image, an array or bytes, got {came}; leave out the data set's transform"
            )
        return image, -1 if label is None or self.classes is None else int(label)


def from_dataset(dataset: Any) -> Source:
    """A torchvision-style data set (image, label) with `.classes`, or a Hugging Face data set (known by `.features`).

    Files behind `.samples` or an undecoded Hugging Face image are taken as bytes, so that their JPEGs can be kept.
    Raises InputError if the image column or the class names cannot be told.
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InputError(f"expected a data set with a length and items, got {type(dataset).__name__}")
    if hasattr(dataset, "features"):
        return _hugging_face(dataset)
    classes = getattr(dataset, "classes", None) or getattr(getattr(dataset, "dataset", None), "classes", None)
    if classes is None:
        raise InputError(f"{type(dataset).__name__} has no .classes; set it to the class names in label order")
    item = dataset.__getitem__
    if hasattr(dataset, "samples"):
        item = lambda i: (Path(dataset.samples[i][0]).read_bytes(), dataset.samples[i][1])  # noqa: E731
    return Dataset(len(dataset), item, tuple(map(str, classes)))


def _hugging_face(dataset: Any) -> Dataset:
    kinds = {column: type(feature).__name__ for column, feature in dataset.features.items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    labels = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    if len(images) != 1 or len(labels) > 1:
        raise InputError(f"expected one Image and at most one ClassLabel column, got {kinds}; use remove_columns")
    undecoded = dataset.with_format(None).cast_column(images[0], type(dataset.features[images[0]])(decode=False))

    def item(i: int) -> tuple[bytes, int | None]:
        row = undecoded[i]
        stored = row[images[0]]
        return stored["bytes"] or Path(stored["path"]).read_bytes(), row[labels[0]] if labels else None

    return Dataset(len(dataset), item, tuple(dataset.features[labels[0]].names) if labels else None)
