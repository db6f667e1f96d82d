"""Read a Hugging Face data set: its image column undecoded, and the column that holds the label.

table = table_of(datasets.load_dataset("imagefolder", data_dir="photos", split="train"))
blob, label = table.item(7)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pipeline.errors import InputError
from pipeline.sources.classes import class_name, class_names
from pipeline.sources.regular import read_regular
from pipeline.text import count, some

LABEL_NAMES = {"label", "labels", "class", "classes", "target", "targets", "category", "y"}
NAMES, NUMBERS = {"string", "large_string", "string_view"}, ("int", "uint")
UNLABELLED = -1  # Hugging Face's own mark of a test set without labels


class Table(NamedTuple):
    """`item(i)` gives (file contents, label or None); class names in label order, and notes on how labels were read."""

    item: Callable[[int], tuple[bytes, Any]]
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]


def table_of(dataset: Any) -> Table:
    """Find the image and the label of a data set by its features, not by a guess where several columns could be it.

    The label is the one ClassLabel column, or one called label, class, target or the like that holds whole numbers or
    names: its different values, sorted, are the classes then. -1 and null mean unlabelled.
    Raises InputError naming the columns if there is not one image, if the label could be another or several, or if it
    is of another kind; and for a transform, which reading the stored images would leave out.
    """
    kinds = {column: _kind(feature) for column, feature in dataset.features.items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    if len(images) != 1:
        raise InputError(f"expected one Image column, got {_shown(kinds)}; use remove_columns or cast_column")
    if (getattr(dataset, "format", None) or {}).get("type") == "custom":
        raise InputError("expected the stored images, got a data set with set_transform; use map, or reset_format()")
    image, label = images[0], _label_column(kinds, images[0])
    plain = dataset.with_format(None)
    undecoded = plain.cast_column(image, type(dataset.features[image])(decode=False))
    classes, places, notes = _classes(plain, label, kinds)

    def item(i: int) -> tuple[bytes, Any]:
        row = undecoded[i]
        value = row[label] if label is not None else None
        return _content(row[image]), value if places is None else places.get(value)

    return Table(item, classes, notes)


def _kind(feature: Any) -> str:
    """Image, ClassLabel, List and so on, or the type of a plain value: int64, string."""
    name = type(feature).__name__
    return str(feature.dtype) if name == "Value" else name


def _label_column(kinds: Mapping[str, str], image: str) -> str | None:
    found = [column for column, kind in kinds.items() if kind == "ClassLabel" or column.lower() in LABEL_NAMES]
    found = [column for column in found if column != image]
    others = {column: kind for column, kind in kinds.items() if column != image}
    if len(found) > 1:
        raise InputError(
            f"the label could be {' or '.join(found)} of {_shown(kinds)}; remove_columns all but one of these"
        )
    if not found and others:
        raise InputError(
            f"none of the columns {_shown(others)} is known to be the label; rename_column it to 'label', or "
            "remove_columns these if the images have none"
        )
    return found[0] if found else None


def _classes(
    dataset: Any, label: str | None, kinds: Mapping[str, str]
) -> tuple[tuple[str, ...] | None, dict[Any, int] | None, tuple[str, ...]]:
    """Class names, the place of each value that is no class number already, and notes."""
    if label is None:
        return None, None, ()
    kind = kinds[label]
    if kind == "ClassLabel":
        return class_names(dataset.features[label].names, f"column {label}"), None, ()
    if kind not in NAMES and kind not in ("bool", "null") and not kind.startswith(NUMBERS):
        raise InputError(f"column {label}: expected ClassLabel, whole numbers or names, got {kind}; cast_column it")
    values = list(dataset[label])
    known = {value for value in values if value is not None}
    if kind.startswith(NUMBERS):
        known = _numbers(label, known)
    classes = class_names([class_name(str(value)) for value in sorted(known)], f"column {label}")
    unlabelled = sum(value not in known for value in values)
    note = f"labels: the {count(len(classes), 'different value')} of column {label} ({kind}), "
    note += f"{count(unlabelled, 'image')} without one"
    return classes or None, {value: i for i, value in enumerate(sorted(known))}, (note,)


def _numbers(label: str, values: set[int]) -> set[int]:
    """Class numbers without the mark of unlabelled images. Raises InputError where -1 could be a class."""
    rest = values - {UNLABELLED}
    if rest and min(rest) < 0:
        raise InputError(
            f"column {label}: expected class numbers from 0 or 1, got {min(rest)}; cast_column to ClassLabel"
        )
    if UNLABELLED in values and (len(rest) < 2 or min(rest) > 1):
        shown = some([str(value) for value in sorted(values)])
        raise InputError(
            f"column {label}: -1 could be a class or mean unlabelled among {shown}; cast_column to ClassLabel"
        )
    return rest


def _content(stored: Mapping[str, Any] | None) -> bytes:
    if stored is None or not (stored["bytes"] or stored["path"]):
        raise InputError("no image: the column is null here")
    return stored["bytes"] or read_regular(stored["path"])


def _shown(kinds: Mapping[str, str]) -> str:
    return some([f"{column} ({kind})" for column, kind in kinds.items()], 12)
