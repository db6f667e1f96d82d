"""Find out what the user means: a folder, a table or a data set object becomes a `Source`."""

from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.sources.folders import class_folders, flat_folder
from pipeline.sources.listing import visible
from pipeline.sources.objects import from_dataset
from pipeline.sources.source import Source
from pipeline.sources.tables import from_csv


def find(source: Any, unlabelled: str | Path | None = None) -> Source:
    """The source that a path (folder, .csv) or a data set object means; `unlabelled` adds a folder without labels.

    Raises InputError if the path does not exist, holds no images, or could mean two things.
    """
    if not isinstance(source, str | Path):
        if unlabelled is not None:
            raise InputError("--unlabelled: expected together with a folder or CSV, got a data set object")
        return source if isinstance(source, Source) else from_dataset(source)
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: expected a folder of images or a CSV, found nothing")
    more = None if unlabelled is None else flat_folder(Path(unlabelled))
    if path.is_file():
        return from_csv(path, more)
    folders = [entry.name for entry in visible(path) if entry.is_dir()]
    if not folders and more is not None:
        raise InputError(f"--unlabelled: expected beside labelled images, but {path} is a flat folder without labels")
    return class_folders(path, more) if folders else flat_folder(path)
