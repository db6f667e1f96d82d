"""Class names: one form for each, lists of them from files, and how two lists differ.

names = class_names(["café", "tea"], "photos")
names = read_class_list(Path("train.beton"))
difference(("cat", "Dog"), ("cat", "dog"))      # "'Dog' here is 'dog' there (upper and lower case)"
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.sources.cells.delimited import decode
from pipeline.sources.regular import read_regular
from pipeline.store.beton import open_beton
from pipeline.store.sample_names import escape, printable
from pipeline.text import count, some

LONGEST = 255  # characters of a class name; a longer one is a text, or a cell of a damaged table
SHOWN = 5  # names that a message has before it says how many more there are


def class_name(name: str) -> str:
    """The form in which a class is stored and compared: printable, in Unicode's composed form (NFC)."""
    return printable(unicodedata.normalize("NFC", name))


def class_names(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Bring each name into its stored form, in order.

    Raises InputError if a name is empty or longer than 255 characters, or if two are the same name then.
    """
    made: dict[str, str] = {}
    for name in names:
        formed = class_name(name)
        if not formed.strip() or len(formed) > LONGEST:
            shown = f"{formed[:40]!r}..." if len(formed) > 40 else repr(formed)
            raise InputError(f"{where}: expected class names of 1 to {LONGEST} characters, got {shown} ({len(formed)})")
        if formed in made:
            twice = f"{made[formed]!a} and {name!a}, one name in two Unicode forms" * (made[formed] != name)
            raise InputError(f"{where}: expected different classes, got {twice or f'{formed!r} twice'}; make them one")
        made[formed] = name
    return tuple(made)


def read_class_list(path: Path) -> tuple[str, ...]:
    """The classes of a .beton or its manifest, of a JSON list, or of a text with a name a line, in their order.

    Raises InputError if the file cannot be read as one of these, or holds no class.
    """
    shown = escape(str(path))
    if path.suffix == ".beton":
        names = open_beton(path).manifest.classes
    else:
        try:
            blob = read_regular(path)
        except OSError as error:
            raise InputError(f"--classes-from {shown}: {error.strerror}") from None
        except InputError as error:
            raise InputError(f"--classes-from {shown}: {error}") from None
        names = _listed(blob, shown) if path.suffix == ".json" else _lines(blob, shown)
    if not names:
        raise InputError(f"--classes-from {shown}: expected class names, found none")
    return class_names(names, f"--classes-from {shown}")


def _listed(blob: bytes, shown: str) -> Sequence[str]:
    try:
        found = json.loads(blob)
    except (ValueError, RecursionError):
        raise InputError(f"--classes-from {shown}: expected JSON, a list of class names") from None
    if isinstance(found, dict):  # a manifest
        found = found.get("classes")
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InputError(f"--classes-from {shown}: expected a list of class names, or a manifest with one")
    return found


def _lines(blob: bytes, shown: str) -> Sequence[str]:
    try:
        text, _ = decode(blob)
    except InputError as error:
        raise InputError(f"--classes-from {shown}: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def renumbered(
    classes: Sequence[str], counts: Sequence[int] | None, listed: Sequence[str], where: str, origin: str
) -> np.ndarray:
    """The places in `listed` of a source's classes: i64 [len(classes)].

    counts  images of each class, where they are known; a class without an image need not be listed, and has place -1

    Raises InputError, with how the names differ, for a class that is not listed.
    """
    place = {name: i for i, name in enumerate(listed)}
    unknown = [name for i, name in enumerate(classes) if name not in place and (counts is None or counts[i])]
    if unknown:
        of = f"{len(unknown)} of the {count(len(classes), 'class')}"
        here, there = f"in {where}", f"in {origin}"
        raise InputError(f"{where}: {of} are not among those of {origin}: {difference(classes, listed, here, there)}")
    return np.array([place.get(name, -1) for name in classes], np.int64)


def how_to_agree(classes: Sequence[str], listed: Sequence[str], origin: object) -> str:
    """Say what makes a file's classes those of another, `listed` in `origin`: another order is a matter of converting
    again, images of a class that is not there are not.

    how_to_agree(val.manifest.classes, train.manifest.classes, train.path)
    """
    again = f"convert it with --classes-from {origin}"
    if more := [name for name in classes if name not in listed]:
        return f"leave out the images of {some(more)}, or convert {origin} again with some of them; then {again}"
    return again


def difference(ours: Sequence[str], theirs: Sequence[str], here: str = "here", there: str = "there") -> str:
    """Say how two lists of class names differ, in one line.

    Names that are nearly the same are shown in pairs, with what differs: Unicode form, white space, case, or the signs
    between words; of the others the first few that only one list has.
    """
    first, second = set(ours), set(theirs)
    missing, more = [name for name in ours if name not in second], [name for name in theirs if name not in first]
    if not missing and not more:
        moved = [(i, a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
        if not moved:
            return "the same names" if len(ours) == len(theirs) else "one list has a name twice"
        i, a, b = moved[0]
        return f"the same names in another order: class {i} is {a!r} {here} and {b!r} {there}"
    parts = []
    for kind, same in _ALIKE.items():
        near = {same(name): name for name in reversed(more)}
        pairs = [(name, near[same(name)]) for name in missing if same(name) in near]
        matched = {name for pair in pairs for name in pair}
        missing, more = ([name for name in names if name not in matched] for names in (missing, more))
        shown = [f"{_visible(a, kind)} {here} is {_visible(b, kind)} {there}" for a, b in pairs]
        parts += [f"{_first(shown)} ({kind})"] if pairs else []
    if missing and more and all(map(str.isdecimal, missing)) != all(map(str.isdecimal, more)):
        numbers, names = (here, there) if all(map(str.isdecimal, missing)) else (there, here)
        parts.append(f"numbers {numbers}, names {names}")
    parts += [f"only {where}: {_first(list(map(repr, names)))}"
              for where, names in ((here, missing), (there, more)) if names]  # fmt: skip
    return "; ".join(parts)


def _visible(name: str, kind: str) -> str:
    return ascii(name) if kind == "Unicode form" else repr(name)


def alike(classes: Sequence[str]) -> list[str]:
    """A line that names classes which differ only in case, white space, signs or leading zeros; none without such."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(_letters(name), []).append(name)
    found = [" and ".join(map(repr, names)) for key, names in groups.items() if len(names) > 1 and key]
    return [f"classes that are nearly the same: {_first(found)}; are they one class?"] if found else []


def _letters(name: str) -> str:
    return _without_zeros(
        re.sub(r"[\s_.\-\u00ad\u200b-\u200f\u2060\ufeff]+", "", unicodedata.normalize("NFKC", name).casefold())
    )


def _without_zeros(name: str) -> str:
    """A name, without leading zeros if it is a number."""
    return name.lstrip("0") or "0" if name.isdecimal() else name


_ALIKE: dict[str, Callable[[str], str]] = {
    "Unicode form": lambda name: unicodedata.normalize("NFC", name),
    "white space": lambda name: " ".join(name.split()),
    "leading zeros": _without_zeros,
    "upper and lower case": lambda name: name.casefold(),
    "case, white space or signs between words": _letters,
}


def _first(shown: list[str]) -> str:
    return some(shown, SHOWN) + (f" ({len(shown)} in all)" if len(shown) > SHOWN else "")
