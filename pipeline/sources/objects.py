"""Read Python data sets: torchvision's, subsets and concatenations of them, any with (image, label), Hugging Face's.

source = from_dataset(torchvision.datasets.CIFAR10("cifar"))
image, label = source.read(7)
"""

import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from PIL import Image

from pipeline.errors import InputError
from pipeline.sources.classes import class_name, class_names
from pipeline.sources.hugging_face import table_of
from pipeline.sources.image_file import decoded_copy
from pipeline.sources.regular import read_regular
from pipeline.sources.source import Pixels, Source, WrongItem
from pipeline.store.sample_names import escape
from pipeline.text import some


class Items(NamedTuple):
    """How a data set's items are taken: `get(i)` is (image, label), `name(i)` says which it is.

    concurrent  whether several threads may call `get` at once, as they may where it opens a file by its name
    """

    get: Callable[[int], Any]
    concurrent: bool = False
    name: Callable[[int], str] = str


@final
class Dataset(Source):
    """A Python data set of n items: `item(i)` gives (image, label), the label a number, one of `classes`, or None."""

    def __init__(
        self,
        n: int,
        item: Callable[[int], Any] | Items,
        classes: tuple[str, ...] | None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.n, self.items, self.notes = n, item if isinstance(item, Items) else Items(item), notes
        self.classes, self.concurrent = classes, self.items.concurrent
        self._places = {name: i for i, name in enumerate(classes or ())}

    def __len__(self) -> int:
        return self.n

    def name(self, i: int) -> str:
        return self.items.name(i)

    def read(self, i: int) -> tuple[Pixels, int]:
        item = self.items.get(i)
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise WrongItem(f"item {i}: expected (image, label), got {_described(item)}")
        return _own(item[0], i), self._label(item[1], i)

    def _label(self, label: Any, i: int) -> int:
        if label is None:
            return -1
        if getattr(label, "ndim", None) == 0 and hasattr(label, "item"):  # NumPy's numbers, and tensors of one
            label = label.item()
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        classes = self.classes or ()
        if isinstance(label, str) and class_name(label) in self._places:
            return self._places[class_name(label)]
        if isinstance(label, int) and -1 <= label < len(classes) and (len(classes) == 2 or not isinstance(label, bool)):
            return int(label)
        known = (
            f"a label from 0 to {len(classes) - 1}, the name of a class," if classes else "no label, without .classes,"
        )
        raise WrongItem(f"item {i}: expected {known} or None, got {_described(label)}")


def from_dataset(dataset: Any) -> Source:
    """A data set with a length and items (image, label), and `.classes` in label order; or a Hugging Face data set.

    Its items are taken by one thread, one after another, and each is taken over before the next is asked for. The files
    of a torchvision folder without transforms are read as they are, so that their JPEGs can be kept; so are undecoded
    Hugging Face images.

    Raises InputError if it has no length or no items, is empty, or does not say which classes there are.
    """
    kind = type(dataset).__name__
    if isinstance(dataset, Mapping):
        names = some([repr(name) for name in dataset])
        raise InputError(f"expected one data set, got a {kind} of several ({names}); convert each of them")
    n = _length(dataset)
    if n is None:
        raise InputError(
            f"expected a data set with a length and items by number, got {kind}; write its images into a folder for "
            "each class, or wrap them in a class with __len__, __getitem__ and .classes"
        )
    if n == 0:
        raise InputError(f"{kind}: expected images, found none")
    if isinstance(getattr(dataset, "features", None), Mapping):
        table = table_of(dataset)
        return Dataset(n, table.item, table.classes, table.notes)
    classes = _classes(dataset)
    if classes is None:
        raise InputError(f"{kind} has no .classes; set it to the class names in label order")
    return Dataset(n, _items(dataset), classes, _notes(dataset))


def _length(dataset: Any) -> int | None:
    """The number of items, or None where items have no number."""
    iterable = _torch("IterableDataset")
    if (iterable and isinstance(dataset, iterable)) or not hasattr(type(dataset), "__getitem__"):
        return None
    try:
        return len(dataset)
    except TypeError:
        return None


def _torch(name: str) -> Any:
    """A class of torch.utils.data, or None where nobody has imported that, so that no object can be of it."""
    return getattr(sys.modules.get("torch.utils.data"), name, None)


def _items(dataset: Any) -> Items:
    """Follow torch's own subsets and concatenations down to the data sets that have the items."""
    if type(dataset) is _torch("Subset"):
        inner, indices = _items(dataset.dataset), dataset.indices
        return Items(lambda i: inner.get(indices[i]), inner.concurrent, lambda i: inner.name(indices[i]))
    if type(dataset) is _torch("ConcatDataset"):
        parts, ends = [_items(part) for part in dataset.datasets], dataset.cumulative_sizes

        def placed(i: int) -> tuple[Items, int]:
            k = bisect_right(ends, i)
            return parts[k], i - (ends[k - 1] if k else 0)

        def get(i: int) -> Any:
            part, j = placed(i)
            return part.get(j)

        def name(i: int) -> str:
            part, j = placed(i)
            return part.name(j)

        return Items(get, all(part.concurrent for part in parts), name)
    if _gives_its_files(dataset):
        samples, root = dataset.samples, Path(dataset.root)
        return Items(
            lambda i: (read_regular(samples[i][0]), samples[i][1]), True, lambda i: _below(samples[i][0], root)
        )
    return Items(lambda i: dataset[i])


def _gives_its_files(dataset: Any) -> bool:
    """Whether an item is what a file of `.samples` holds, and the label there: nothing of torchvision's is replaced."""
    folder = sys.modules.get("torchvision.datasets.folder")
    if folder is None or not isinstance(dataset, folder.DatasetFolder):
        return False
    as_it_comes = dataset.transform is None and dataset.target_transform is None
    own = type(dataset).__getitem__ is folder.DatasetFolder.__getitem__
    return as_it_comes and own and dataset.loader is folder.default_loader


def _below(path: str, root: Path) -> str:
    return escape(str(Path(path).relative_to(root) if Path(path).is_relative_to(root) else path))


def _classes(dataset: Any) -> tuple[str, ...] | None:
    """The class names in label order, or None. Raises InputError for what is no list of them."""
    found, kind = getattr(dataset, "classes", None), type(dataset).__name__
    if found is None and isinstance(dataset, _torch("Subset") or ()):
        return _classes(dataset.dataset)
    if found is None and isinstance(dataset, _torch("ConcatDataset") or ()):
        parts = [_classes(part) for part in dataset.datasets]
        if any(part != parts[0] for part in parts):
            raise InputError(
                f"{kind}: expected data sets of the same classes in the same order, got others; set .classes"
            )
        return parts[0]
    if found is None:
        return None
    if not isinstance(found, list | tuple | np.ndarray) or len(found) == 0:
        raise InputError(f"{kind}.classes: expected a list of names in label order, got {_described(found)}")
    places = getattr(dataset, "class_to_idx", None)
    for i, name in enumerate(found):
        if isinstance(places, Mapping) and isinstance(name, str) and places.get(name, i) != i:
            raise InputError(f"{kind}: .class_to_idx gives {name!r} label {places[name]}, but .classes label {i}")
    named = (
        ", ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in found
    )  # ImageNet's synonyms
    return class_names(named, f"{kind}.classes")


def _notes(dataset: Any) -> tuple[str, ...]:
    if getattr(dataset, "target_transform", None) is None:
        return ()
    return ("labels are what target_transform makes of them, named in the order of .classes",)


def _own(image: Any, i: int) -> Pixels:
    """An item's image, which nothing that the data set does later can change."""
    if image is None:
        raise InputError("no image")
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        return image.copy()
    if isinstance(image, Image.Image):
        return decoded_copy(image)
    came = type(image).__name__
    hint = "leave out the transform to tensors" if came == "Tensor" else "set a transform that makes one of these"
    raise WrongItem(f"item {i}: expected a Pillow image, an array or bytes, got {came}; {hint}")


def _described(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {some([repr(key) for key in value])}"
    shown = repr(value) if isinstance(value, int | float | str | bool) else ""
    return f"{shown[:60]} ({type(value).__name__})" if shown else type(value).__name__
