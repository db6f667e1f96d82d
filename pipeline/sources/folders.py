"""Read folders: one sub-folder a class, or a flat folder of images without labels."""

from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.sources.listing import Listing, listing, visible
from pipeline.sources.source import Files

SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def class_folders(root: Path, more: Files | None = None) -> Files:
    """One sub-folder a class, in alphabetical order as in torchvision's ImageFolder; deeper folders belong to it."""
    entries = list(visible(root))
    classes = tuple(entry.name for entry in entries if entry.is_dir())
    if {name.lower() for name in classes} <= SPLIT_FOLDERS:
        raise InputError(f"{root} holds {', '.join(classes)}, not classes; convert {root / classes[0]} and so on")
    found, labels = Listing(), []
    for entry in entries:
        if not entry.is_dir():
            found.add(root, entry.name)
    if found.images:
        first = found.images[0]
        raise InputError(f"{root} has images ({first}, ...) beside class folders; move them, or use --unlabelled")
    for label, folder in enumerate(classes):
        inside = listing(root, folder)
        if not inside.images:
            raise InputError(f"{root / folder}: expected the images of class {folder}, found none; remove the folder")
        found.extend(inside)
        labels += [label] * len(inside.images)
    return Files(root, found.images, np.array(labels, np.int64), classes, found, more)


def flat_folder(root: Path) -> Files:
    """All images below a folder, without labels."""
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of images, found none")
    found = listing(root)
    return Files(root, found.images, np.full(len(found.images), -1, np.int64), None, found)
