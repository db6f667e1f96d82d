"""Find the images of a set of dense prediction, and read lists of images and of classes.

images = images_of(root, "images/{set}", "train")     # {"a": Path("images/train/a.jpg"), ...}
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path, PurePosixPath

from pipeline.errors import InputError
from pipeline.sources.listing import identity, is_folder, kind_of
from pipeline.text import count, some

IMAGES = ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"
LIST, HEAD = ".txt", "Idx"
"""How the name of a set ends that is a list of names; and how ADE20K's table of classes begins."""


def images_of(root: Path, pattern: str, name: str) -> dict[str, Path]:
    """List the images of a set by their names without ending, in alphabetical order.

    Raises InputError for a folder or a list that is missing, a name of the list without an image, no image at all, and
    two images that differ in their ending alone.
    """
    folder = folder_of(root, pattern, name)
    if name.endswith(LIST):
        images, where, what = _listed(root / name, folder), root / name, "names of images, a line each"
    else:
        images, where, what = found(folder), folder, f"images ({', '.join(IMAGES)})"
    if not images:
        raise InputError(f"{where}: expected {what}, found none")
    return images


def folder_of(root: Path, pattern: str, name: str) -> Path:
    """Return the folder that a pattern with {set} names; of a list NAME.txt that of NAME, or the one without it."""
    folder = root / pattern.replace("{set}", name.removesuffix(LIST))
    return folder if folder.is_dir() or not name.endswith(LIST) else root / pattern.replace("{set}", "")


def found(folder: Path, endings: tuple[str, ...] = IMAGES) -> dict[str, Path]:
    """List the files below a folder by their name without ending, in alphabetical order."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of images, found none; see --data.root and --method.labels")
    return _by_stem(folder, (path for path in sorted(files_below(folder)) if path.suffix.lower() in endings))


def files_below(folder: Path, seen: set[tuple[int, int]] | None = None) -> Iterator[Path]:
    """Go through the files below a folder and below folders that are linked into it, once each: a link to a folder that
    has been gone into, or that it lies in, adds nothing. Raises InputError for a file of an image's ending that is
    none: a FIFO, a link to nothing.

    seen  folders that were gone into
    """
    seen = set() if seen is None else seen
    seen.add(identity(folder))
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: (entry.is_symlink(), entry.name))
    for entry in entries:
        path = folder / entry.name
        if is_folder(entry):
            if identity(path) not in seen:
                yield from files_below(path, seen)
        elif (kind := kind_of(entry)) is None:
            yield path
        elif path.suffix.lower() in IMAGES:
            raise InputError(f"{path}: {kind}, expected a regular file; take it out")


def _listed(file: Path, folder: Path) -> dict[str, Path]:
    """The images of a list that holds a name, with or without ending and folders, a line."""
    known = found(folder)
    composed_known = {composed(stem): stem for stem in known}
    stems = []
    for line in lines_of(file):
        stem = line if line in known else place_of(stem_of(line), composed_known, known)
        if stem is None:
            first, *behind = line.split()
            numbered = behind in (["-1"], ["0"], ["1"]) and stem_of(first) in known
            hint = "; VOC's lists of one class have numbers behind the names, the one without class has names alone"
            raise InputError(f"{file}: lists {line}, of which {folder} has no image{hint if numbered else ''}")
        stems.append(stem)
    return {stem: known[stem] for stem in sorted(set(stems))}


def lines_of(file: Path) -> list[str]:
    """Read the lines of a list of images, empty ones left out. Raises InputError for a file that is missing."""
    if not file.is_file():
        raise InputError(f"{file}: expected a list of images, found no such file")
    lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    return [line.strip() for line in lines if line.strip()]


def composed(name: str) -> str:
    """Write letters with marks as one character each (Unicode's NFC): disks and tools write them as one or as two."""
    return unicodedata.normalize("NFC", name)


def composed_names(files: Mapping[str, Path]) -> dict[str, Path]:
    """Key files by their composed names. Raises InputError for two of the same."""
    made: dict[str, Path] = {}
    for stem, path in files.items():
        if (name := composed(stem)) in made:
            raise InputError(f"{path}: expected one file called {name}, found {made[name]}, too; take one out")
        made[name] = path
    return made


def stem_of(name: str) -> str:
    """Return the name of a file as lists and JSONs have it, folders included, without ending: "s/a" of "./s\\a.jpg"."""
    path = PurePosixPath(name.replace("\\", "/"))
    return composed((path.parent / path.stem).as_posix())


def place_of(stem: str, known: Mapping[str, str], files: Mapping[str, Path]) -> str | None:
    """Find the image that a list or a JSON names from the images' folder, or from one above it: images/train/a of
    DATA/images/train/a.jpg; None where there is none.

    known  keys of `files` by their composed form
    """
    parts = [part for part in stem.split("/") if part]
    for first in range(len(parts)):
        key = known.get("/".join(parts[first:]))
        if key is not None and (first == 0 or _whole_stem(files[key]).endswith("/" + "/".join(parts))):
            return key
    return None


def _whole_stem(path: Path) -> str:
    return composed(path.absolute().with_suffix("").as_posix())


def _by_stem(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in by_stem:
            raise InputError(f"{path}: expected one image called {stem}, found {by_stem[stem].name}, too; take one out")
        by_stem[stem] = path
    return by_stem


def read_classes(path: Path) -> tuple[str, ...]:
    """Read a list of classes: a name a line, or ADE20K's objectInfo150.txt, of which the last column is read."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: expected the names of the classes, one a line, found no such file; write it, or give "
            "--method.labels.names"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected the names of the classes, one a line in UTF-8, got {error}") from error
    comments = [line for line in lines if line.startswith("#")]
    if comments:
        raise InputError(f"{path}: expected names of classes, one a line, got {comments[0][:60]}; take the line out")
    if lines and lines[0].startswith(HEAD):
        lines = [line.split("\t")[-1].strip() for line in lines[1:]]
    return tuple(lines)


def classes_note(classes: Sequence[str], source: Path) -> str:
    """Say what the classes are called that a file or a folder names."""
    return f"{count(len(classes), 'class')}, as {source} names them: {some(classes, 10)}"


def repeated_notes(file: Path, images: Sized) -> list[str]:
    """Say how many lines of a list come again, where any does."""
    repeated = len(lines_of(file)) - len(images)
    again = f"{file}: {count(repeated, 'line')} again of an image that the list has; each image is used once"
    return [again] if repeated else []


def check_different(classes: tuple[str, ...], where: str) -> None:
    """Raise InputError for a name that comes twice."""
    twice = [name for number, name in enumerate(classes) if name in classes[:number]]
    if twice:
        raise InputError(f"{where}: expected different names, got {twice[0]} twice")
