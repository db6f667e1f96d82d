"""Read folders: folders of a class each, or images without labels.

source = class_folders(Path("photos"))              # photos/cat/1.jpg is a cat
source = class_folders(Path("places"), levels=2)    # places/a/abbey/1.jpg is an a/abbey
"""

import re
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import InputError
from pipeline.sources.classes import alike, class_names
from pipeline.sources.listing import (
    LOOP,
    SERVICE,
    SERVICE_FOLDERS,
    Listing,
    above_of,
    identity,
    is_folder,
    kind_of,
    listing,
    visible,
)
from pipeline.sources.source import Files
from pipeline.store.sample_names import escape
from pipeline.text import count, some

Levels = int | Literal["leaf"]
_MORE = r"[\s_-]*(set|data|images?|imgs|pictures|photos|folder|split|files)?s?[\s_-]*[ab]?\d*"
PARTS = {
    "train": re.compile(rf"(train|training|trn){_MORE}"),
    "val": re.compile(rf"(val|valid|validation|dev){_MORE}"),
    "test": re.compile(rf"(test|testing|tst|eval|evaluation){_MORE}"),
    "unlabelled": re.compile(rf"(un|no[\s_-]?)label+(ed|s)?{_MORE}|unsup(ervised)?{_MORE}"),
}
"""What folders are called that are parts of a data set, and no classes."""
BATCH = re.compile(
    r"(.*[\s_-])?(part|fold|batch|chunk|shard|vol|volume|disk|archive)s?[\s_-]*\d+|"
    r"(patient|subject|case|study|series|lesion|slide|session)[\s_-]*\d+"
)
PICTURES = re.compile(r"(jpe?g|png|raw|input)?[\s_-]*(images?|imgs?|pictures?|photos?)")
MASKS = re.compile(r"masks?|labels?|annotations?|segmentations?|segmentationclass|ground[\s_-]?truths?|gts?")
"""What folders are called over which a data set was spread, or that hold a patient's images each; those of images; and
those of masks that belong to images."""
SHOWN = 5


def class_folders(root: Path, more: Files | None = None, levels: Levels | None = None) -> Files:
    """Images in folders, each folder of the first level a class, in alphabetical order as in torchvision's ImageFolder.

    levels  how many levels of folders name a class, `a/abbey` for two; "leaf" for each folder that holds images itself;
            None for one level, where this is the only reading. What lies deeper belongs to the class above it.

    An empty folder is a class without images. Raises InputError where images lie deeper than one level in whole
    classes, where the folders are parts of a data set, or where a folder holds other files than images alone.
    """
    shown = escape(str(root))
    found, tops = _listed(root, shown)
    if levels is None:
        _check_parts(tops, shown)
        _check_called_otherwise(tops, shown)
        _check_depth(tops, found, shown)
    folders = _empty_or_not(_of_level(found, levels or 1, shown), found, shown)
    names = class_names(folders, shown)
    classes = tuple(sorted(names))
    number = {name: i for i, name in enumerate(classes)}
    label = {folder: number[name] for folder, name in zip(folders, names, strict=True)}
    labels = np.array([label[_within(name, label)] for name in found.images], np.int64)
    return Files(root, found.images, labels, classes, found, more, _notes(classes, labels, found, levels))


def flat_folder(root: Path) -> Files:
    """All images below a folder, without labels."""
    if not root.is_dir():
        raise InputError(f"{escape(str(root))}: expected a folder of images, found none")
    found = listing(root)
    return Files(root, found.images, np.full(len(found.images), -1, np.int64), None, found)


def folders_in(root: Path, found: Listing | None = None) -> list[str]:
    """The folders of a folder that can hold images of the user, in alphabetical order; others are noted in `found`.

    Raises OSError if the folder cannot be read.
    """
    found, above, folders = found or Listing(), {identity(root), *above_of(root)}, []
    for entry in visible(root, Listing()):
        if not is_folder(entry):
            continue
        if entry.name in SERVICE_FOLDERS:
            found.skipped.append((entry.name, SERVICE))
        elif identity(root / entry.name) in above:
            found.skipped.append((entry.name, LOOP))
        else:
            folders.append(entry.name)
    return folders


def _listed(root: Path, shown: str) -> tuple[Listing, list[str]]:
    """All below a folder, and the names of its folders. Raises InputError if there are images beside these."""
    found, beside = Listing(), Listing()
    try:
        tops = folders_in(root, found)
        for entry in visible(root, found):
            if not is_folder(entry):
                beside.add(root, entry.name, kind_of(entry))
    except OSError as error:
        raise InputError(f"{shown}: the folder cannot be read: {error.strerror}") from None
    if beside.images:
        n, first = count(len(beside.images), "image"), some([*map(escape, beside.images[:2])], 1)
        raise InputError(f"{shown} has {n} ({first}) beside class folders; move them, or use --unlabelled")
    found.extend(beside)
    owner: dict[tuple[int, int], str] = {}
    for top in tops:
        inside = listing(root, top)
        for folder, known in inside.folders.items():
            if known in owner:
                both = f"{escape(owner[known])} and {escape(folder)}"
                raise InputError(f"{shown}: {both} are one folder, by a link, in two classes; remove one of them")
        owner |= {known: folder for folder, known in inside.folders.items()}
        found.extend(inside)
    return found, tops


def _of_level(found: Listing, levels: Levels, shown: str) -> list[str]:
    """The folders that are classes, in the order of the listing."""
    if levels == "leaf":
        holding = {_folder(name) for name in found.images}
        parents = {_folder(folder) for folder in found.folders}
        return [folder for folder in found.folders if folder in holding or folder not in parents]
    above = [name for name in found.images if name.count("/") < levels]
    if above:
        n, first = len(above), escape(above[0])
        raise InputError(
            f"--levels {levels}: {count(n, 'image')} of {shown} lie less deep, such as {first}; give fewer levels"
        )
    return [folder for folder in found.folders if folder.count("/") == levels - 1]


def _empty_or_not(folders: Sequence[str], found: Listing, shown: str) -> list[str]:
    """The folders, once each either holds something that ought to be an image, or is empty."""
    label = dict.fromkeys(folders, 0)
    holding = {_within(name, label) for name in (*found.images, *(name for name, _ in found.rejected))}
    for folder, n in found.others.items():
        inside = _within(f"{folder}/", label)
        if n and inside and inside not in holding:
            name = escape(inside)
            others = count(n, "other file")
            raise InputError(f"{shown}/{name}: expected the images of class {name}, found none, but {others}; move it")
    return list(folders)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _within(name: str, folders: Container[str]) -> str:
    """The innermost of `folders` that a file lies in, or an empty string."""
    parent = _folder(name)
    while parent and parent not in folders:
        parent = _folder(parent)
    return parent


def part_of(name: str) -> str | None:
    """Which part of a data set a folder or a table of this name holds, train for one; None for the name of a class."""
    return next((part for part, names in PARTS.items() if names.fullmatch(name.lower())), None)


def _check_parts(tops: Sequence[str], shown: str) -> None:
    """Raise InputError if folders are the parts of a data set, such as train and test, and no classes."""
    parts = {top: part for top in tops if (part := part_of(top))}
    kinds = set(parts.values())
    if not kinds or (len(kinds) == 1 and len(parts) < len(tops) and "unlabelled" not in kinds):
        return  # a class may be called train
    without = [top for top, part in parts.items() if part == "unlabelled"]
    others = [top for top in tops if top not in without]
    if not set(others) <= parts.keys() and len(kinds) == 1:
        named = escape(without[0])
        raise InputError(
            f"{shown} holds {named} beside other folders; move it and add it by --unlabelled, or give --levels 1 if "
            f"{named} is a class"
        )
    each = [f"{shown}/{escape(top)}" for top in parts if top not in without]
    hint = "convert " + (" and ".join(each) or f"another folder with --unlabelled {shown}/{escape(without[0])}")
    hint += f", with --unlabelled {shown}/{escape(without[0])} for the first" if each and without else ""
    names = some(list(map(escape, tops)), SHOWN)
    raise InputError(f"{shown} holds {names}, not classes; {hint}; --levels 1 takes them for classes")


def _check_called_otherwise(tops: Sequence[str], shown: str) -> None:
    """Raise InputError if all folders are called as numbered batches or patients are, or as images and masks are."""
    names, hint = some(list(map(escape, tops)), SHOWN), "--levels 1 takes them for classes"
    if len(tops) > 1 and all(BATCH.fullmatch(top.lower()) for top in tops):
        raise InputError(
            f"{shown} holds {names}, not classes; put what is in them together, or list it in a table; {hint}"
        )
    pictures = [top for top in tops if PICTURES.fullmatch(top.lower())]
    masks = [top for top in tops if MASKS.fullmatch(top.lower())]
    if pictures and masks and len(pictures) + len(masks) == len(tops):
        raise InputError(f"{shown} holds {names}, not classes; convert {shown}/{escape(pictures[0])}; {hint}")


def _check_depth(tops: Sequence[str], found: Listing, shown: str) -> None:
    """Raise InputError if in whole classes most images do not lie directly in the folder of the first level."""
    depths: dict[str, Counter[int]] = {top: Counter() for top in tops}
    for name in found.images:
        depths[name.partition("/")[0]][name.count("/")] += 1
    held = [top for top in tops if depths[top]]
    nested = [top for top in held if 2 * depths[top][1] < depths[top].total()]
    if not nested:
        return
    flags = _levels(found)
    if len(nested) < len(held):
        direct = [escape(top) for top in held if top not in nested]
        raise InputError(
            f"{shown}: images lie directly in {len(direct)} of its folders ({some(direct, SHOWN)}), and in folders "
            f"below {count(len(nested), 'other')} ({some(list(map(escape, nested)), SHOWN)}); {flags}"
        )
    if len(held) == 1 and 1 not in depths[held[0]]:
        below, only = sorted({escape(name.split("/")[1]) for name in found.images}), escape(held[0])
        one = "one folder" if len(tops) == 1 else "images in one folder"
        raise InputError(
            f"{shown} holds {one}, {only}, with the folders {some(below, SHOWN)}; convert {shown}/{only}; or {flags}"
        )
    deep = sorted(sum(depths.values(), Counter()).items())
    counts = " and ".join(f"{count(n, 'image')} {count(depth, 'folder')} deep" for depth, n in deep)
    raise InputError(f"{shown}: {counts}, such as {escape(found.images[0])}; {flags}")


def _levels(found: Listing) -> str:
    """What each value of --levels would make of the images."""
    folders = [_folder(name).split("/") for name in found.images]
    made = {str(level): {"/".join(each[:level]) for each in folders} for level in range(1, min(map(len, folders)) + 1)}
    leaves = set(map("/".join, folders))
    if leaves not in made.values():
        made["leaf"] = leaves
    each = [
        f"--levels {level} makes {count(len(names), 'class')} ({escape(min(names))})" for level, names in made.items()
    ]
    return ", ".join(each)


def _notes(classes: tuple[str, ...], labels: np.ndarray, found: Listing, levels: Levels | None) -> list[str]:
    """What the user should know of the classes, a line each."""
    counts, notes = np.bincount(labels, minlength=len(classes)), []
    if levels is not None:
        which = "each folder that holds images" if levels == "leaf" else f"the folders of level {levels}"
        notes.append(f"classes: {which}")
    elif deeper := Counter(_folder(name) for name in found.images if name.count("/") > 1):
        folders = some(list(map(escape, deeper)), SHOWN)
        notes.append(f"{count(deeper.total(), 'image')} in folders below a class's ({folders}) belong to that class")
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        notes.append(f"{count(len(empty), 'class')} without an image: {', '.join(empty)}")
    return [*notes, *alike(classes)]
