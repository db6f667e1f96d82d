"""Take which labels may be seen from a published list of file names.

save_split(beton, import_list(beton, "semiformer_10.txt", "semiformer10"))

`python -m pipeline.split import BETON LIST --name semiformer10`.
"""

import re
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.labels.splits import Split, checked, classes_of, stored_labels
from pipeline.store.beton import Beton
from pipeline.store.sample_names import escape, read_names
from pipeline.text import some


def import_list(beton: Beton, path: str | Path, name: str) -> Split:
    """The split of a published list, such as FixMatch's and Semiformer's: one file name a line.

    A line is the sample's name (`pipeline.store.sample_names`) or the last part of it, and may go on after a comma or
    a blank. Where what follows are labels, they must agree with the file's classes. Raises InputError if a line names
    no sample, several, one that another line names, too, or another class than the sample has.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a list of file names ({error.strerror})") from None
    places: dict[str, int] = {}
    for i, sample in enumerate(read_names(beton)):
        for key in {sample, sample.rsplit("/", 1)[-1]}:
            places[key] = -1 if key in places else i
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", _decoded(text)) if line.strip()]
    named = [_place(places, line) for line in lines]
    found = [i for i, _ in named]
    wrong = [line for line, i in zip(lines, found, strict=True) if i < 0]
    if wrong:
        few = some([escape(line) for line in wrong])
        raise InputError(f"{path}: {len(wrong)} of {len(lines)} lines name no sample of {beton.path} or several: {few}")
    ids, counts = np.unique(np.array(found, np.int64), return_counts=True)
    if (counts > 1).any():
        twice = escape(lines[found.index(ids[counts > 1][0])])
        raise InputError(f"{path}: {(counts > 1).sum()} samples are named more than once ({twice}, ...); remove a line")
    labels, classes = stored_labels(beton), classes_of(beton)
    _check_words(path, lines, named, labels, classes)
    return checked(labels, beton.manifest, Split(name, beton.digest, beton.n, None, classes, ids), str(path))


def _check_words(
    path: str | Path, lines: list[str], named: list[tuple[int, str]], labels: np.ndarray, classes: tuple[str, ...]
) -> None:
    """Raise InputError if the words behind the names are labels, no more of them than classes, that contradict these.

    A word that is a class's name must stand behind that class's images; any other word behind those of one class.
    """
    meant: dict[str, int] = {}
    if len({word for _, word in named if word}) > len(classes):
        return
    for line, (i, word) in zip(lines, named, strict=True):
        if not word or labels[i] < 0:
            continue
        if meant.setdefault(word, classes.index(word) if word in classes else int(labels[i])) != labels[i]:
            raise InputError(
                f"{path}: {escape(line)} says {escape(word)}, but that image is of class {classes[labels[i]]} in the "
                f".beton, where {escape(word)} means {classes[meant[word]]}; mend the list, or leave the labels out"
            )


def _decoded(text: bytes) -> str:
    """The text of a list in UTF-8 or UTF-16; a byte that is neither stays what it is in a file's name."""
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        return text.decode("utf-16", "replace")
    return text.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _place(places: dict[str, int], line: str) -> tuple[int, str]:
    """The sample that a line names, whole or by its first word, and what follows the name; -1 for none or several.

    Windows separators and a leading "./" are taken as what they mean.
    """
    word, *rest = re.split(r"[,\s]+", line, maxsplit=1)
    for name, after in ((line, ""), (word, rest[0] if rest else "")):
        for form in (name, name.replace("\\", "/").removeprefix("./")):
            if escape(form) in places:
                return places[escape(form)], after
    return -1, ""
