"""Find the files that the cells of a table name, though cells and files are spelled differently.

    files = NamedFiles(Path("data"))
    files.find("a/1").name      # "a/1.jpg", if that is the only image called a/1

A cell is tried as it is, then with the separators of Windows turned round, then without regard to case and Unicode form
in its last part, then with every suffix that an image may have, and, if it begins with a slash, then below the folder
(Places365: /a/airfield/00000001.jpg). Each folder is listed once.
"""

import os
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, final

from pipeline.sources.listing import SUFFIXES, kind_of, unreadable
from pipeline.store.sample_names import escape
from pipeline.text import some

ABSENT = "no such file"


class Match(NamedTuple):
    """The name of the file that a cell means, relative to the folder, or why there is none."""

    name: str | None
    reason: str | None = None


@final
class NamedFiles:
    """The files that cells name: below or beside each of `folders`, which lie in `root`.

    suffix  stands in the name of each file behind the cell; None lets every image's suffix be lacking in a cell
    """

    def __init__(self, root: Path, suffix: str | None = None, folders: Sequence[str] = ("",)) -> None:
        self.root, self.suffix, self.folders = root, suffix, tuple(folders)
        self._listed: dict[str, _Names] = {}

    def find(self, cell: str) -> Match:
        """The file that a cell names. Several files of one name, and what is no regular file, are none."""
        if len(self.folders) == 1:
            return self._find(self.folders[0], cell)
        matches = [self._find(folder, cell) for folder in self.folders]
        found = sorted({match.name for match in matches if match.name is not None})
        if len(found) > 1:
            return Match(None, f"it could be {some(list(map(escape, found)))}; say which with --image-folder")
        return Match(found[0]) if found else next((m for m in matches if m.reason != ABSENT), Match(None, ABSENT))

    def _find(self, folder: str, cell: str) -> Match:
        refused = ABSENT
        spellings = [cell, *([cell.replace("\\", "/")] if "\\" in cell else [])]
        spellings += [cell.lstrip("/")] if cell.startswith("/") else []
        for spelled in spellings:
            parent, last = os.path.split(os.path.join(folder, spelled))
            if not last or last in (".", "..") or "\0" in spelled:
                continue
            wanted = last + self.suffix if self.suffix and not last.endswith(self.suffix) else last
            name, reason = self._names(parent).find(wanted, guess=self.suffix is None)
            if name is not None:
                return Match(os.path.normpath(os.path.join(parent, name)))
            refused = reason if reason != ABSENT else refused
        return Match(None, refused)

    def _names(self, parent: str) -> "_Names":
        if parent not in self._listed:
            self._listed[parent] = _Names(self.root / parent)
        return self._listed[parent]


@final
class _Names:
    """The entries of one folder; empty where it cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.kinds: dict[str, str | None] = {}
        try:
            with os.scandir(folder) as entries:
                self.kinds = {entry.name: kind_of(entry) for entry in entries}
        except (OSError, ValueError):  # a cell that is no path
            pass

    def find(self, last: str, guess: bool) -> tuple[str | None, str | None]:
        """(name, None) of the regular file that `last` means, or (None, reason); `guess`: a suffix may be lacking."""
        if last in self.kinds:
            return self._checked(last)
        near = self._alike.get(_folded(last), [])
        if not near and guess:
            near = self._stems.get(_folded(last), [])
        if len(near) == 1:
            return self._checked(near[0])
        names = some(sorted(map(escape, near)))
        return None, f"it could be {names}; say which with --suffix" if near else ABSENT

    def _checked(self, name: str) -> tuple[str | None, str | None]:
        kind = self.kinds[name]
        reason = f"{kind}, expected a regular file" if kind is not None else unreadable(name)
        return (name, None) if reason is None else (None, reason)

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        """The entries by their names without regard to case and Unicode form."""
        found: dict[str, list[str]] = {}
        for name in self.kinds:
            found.setdefault(_folded(name), []).append(name)
        return found

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        """The entries with an image's suffix, by their names without it."""
        found: dict[str, list[str]] = {}
        for name in self.kinds:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                found.setdefault(_folded(stem), []).append(name)
        return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
