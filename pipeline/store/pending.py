"""Find the files that belong to a .beton while a conversion replaces it, or after one was killed as it did.

next_path(Path("train.beton.json"))      # train.beton.json.next

A data set is several files, and one rename moves one of them. So a conversion first writes the new manifest, names and
splits beside the old ones, as NAME.next. Then the rename of the .beton changes the data set, and the others are renamed
after it. A reader takes of NAME and NAME.next the one whose digest fits the .beton: wherever a kill comes, it reads all
of the old data set or all of the new one. The next conversion to that name renames or removes what a kill left.
"""

from pathlib import Path

NEXT = ".next"


def next_path(path: Path) -> Path:
    """train.beton.names -> train.beton.names.next."""
    return path.with_name(path.name + NEXT)


def candidates(path: Path) -> list[Path]:
    """The files that may be what `path` names, in the order to try them; those that are there.

    `path` itself comes once more at the end: a conversion may rename its NAME.next between the two looks.
    """
    return [each for each in (path, next_path(path), path) if each.is_file()]


def waiting(beton: Path) -> list[Path]:
    """The NAME.next files of a .beton: of its manifest, its names and its splits, in alphabetical order."""
    named = {f"{beton.name}.json{NEXT}", f"{beton.name}.names{NEXT}"}
    start, end = f"{beton.stem}.split-", f".json{NEXT}"
    found = beton.parent.iterdir() if beton.parent.is_dir() else ()
    return sorted(
        path for path in found if path.name in named or (path.name.startswith(start) and path.name.endswith(end))
    )


def final_path(path: Path) -> Path:
    """train.beton.names.next -> train.beton.names."""
    return path.with_name(path.name.removesuffix(NEXT))
