"""List what lies below a folder: the images, what ought to be an image and is none, and everything else by kind.

    found = listing(Path("photos"))
    found.images, found.rejected, found.ignored

`convert` and `predict` both list with this. A file is an image if its name ends as an image's does, or if it begins as
an image does, whatever its name: `x.jpg_large` and files without a suffix are images, too. Whether an image can be
decoded is found out when it is read (`pipeline.sources.encode.prepare`), and said with the reason.
"""

import contextlib
import errno
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, final

from pipeline.errors import InputError
from pipeline.sources.regular import open_regular, special
from pipeline.store.sample_names import escape
from pipeline.text import some

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2",
    ".avif", ".heic", ".heif",
}  # fmt: skip
_RAW = "a camera's raw file, which cannot be read here; export it as JPEG or TIFF"
_OTHER = "which cannot be read here; convert it to PNG or JPEG"
UNREADABLE = {
    **dict.fromkeys((".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw",
                     ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"), _RAW),
    ".jxl": f"a JPEG XL image, {_OTHER}", ".dcm": f"a DICOM image, {_OTHER}", ".exr": f"an OpenEXR image, {_OTHER}",
}  # fmt: skip
"""Why images with these suffixes are rejected unread. Many raw files are TIFF files whose first image is a preview."""
STARTS = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  "
BRANDS = {
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"hevc",
    b"hevx",
    b"mif1",
    b"msf1",
    b"avif",
    b"avis",
}  # of ISO media files
BITMAP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}  # sizes of the header that a BMP has at byte 14
NETPBM = re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s")
START_BYTES = 64
SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")  # of a file; 003.Sooty_Albatross is a folder's name
SERVICE_FOLDERS = {
    "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__",
}  # fmt: skip
"""Folders that a system or an archiver makes beside images; what is in them is not the user's."""
SERVICE_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db"}
NAMELESS, HIDDEN = "no suffix", "hidden"
DANGLING = "a link to nothing"
LOOP = "a link to a folder that it lies in, or that is listed already"
SERVICE = "a folder that a system makes beside images"
NAMED = 10  # names that a note about left-out files has; all of them are counted


@final
@dataclass
class Listing:
    """Files by kind; names are relative to the root, with slashes, as the file system has them.

    images    names that end as an image's, or files that begin as an image
    rejected  (name, reason) of what ought to be an image or to hold images, and cannot be taken
    skipped   (name, reason) of what is neither file nor folder, and of folders that are not gone into
    ignored   how many other files there are: by suffix, "no suffix", or "hidden"
    others    how many of the other files lie in each folder, hidden ones and those that a system makes apart
    folders   device and inode of every folder that was gone into, by name
    """

    images: list[str] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, root: Path, name: str, kind: str | None) -> None:
        """Put what is no folder where it belongs; `kind` is None for a regular file, else what it is instead."""
        suffix = os.path.splitext(name)[1].lower()
        looks = suffix in SUFFIXES
        if kind == DANGLING and not looks and not SUFFIX.fullmatch(suffix):
            self.skipped.append((name, f"{DANGLING}, which may have been a folder"))
        elif kind is not None and (looks or kind != DANGLING):
            (self.rejected if looks else self.skipped).append((name, f"{kind}, expected a regular file"))
        elif kind is None and (reason := unreadable(name)):
            self.rejected.append((name, reason))
        elif looks or (kind is None and begins_like_an_image(root / name)):
            self.images.append(name)
        else:
            self.ignored[suffix or NAMELESS] += 1
            folder, last = os.path.split(name)
            self.others[folder] += last.lower() not in SERVICE_FILES

    def extend(self, other: "Listing") -> None:
        """Take over what another listing has."""
        self.images += other.images
        self.rejected += other.rejected
        self.skipped += other.skipped
        self.ignored += other.ignored
        self.others += other.others
        self.folders |= other.folders

    def instead(self) -> str:
        """What is there where images were expected: "none, but 3 .txt, 1 hidden"."""
        counts = [f"{count} {kind}" for kind, count in sorted(self.ignored.items())]
        counts += [f"{escape(name)} ({reason})" for name, reason in self.rejected[:NAMED]]
        return f"none, but {', '.join(counts)}" if counts else "none"

    def notes(self) -> list[str]:
        """A line for each reason why something was skipped, with how many and which."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.skipped:
            by_reason.setdefault(reason, []).append(escape(name))
        return [
            f"left out: {some(names, NAMED)} ({reason}; {len(names):,} in all)"
            for reason, names in sorted(by_reason.items())
        ]


class _Folder(NamedTuple):
    """A folder that is being gone through: its name, and the entries that are still to come."""

    name: str
    entries: Iterator[os.DirEntry[str]]


def listing(root: Path, folder: str = "") -> Listing:
    """List all files below `root`/`folder`, in alphabetical order of each folder's entries.

    What begins with a dot is counted, not gone into. A link to a folder that it lies in or that is listed already, and
    a folder that a system made beside the images, is skipped; a folder that cannot be read is rejected.

    Raises InputError if `root`/`folder` itself cannot be read.
    """
    found = Listing()
    try:
        seen, above = {identity(root / folder)}, above_of(root / folder)
        found.folders |= dict.fromkeys([folder] if folder else [], identity(root / folder))
        inside = [_Folder(folder, iter(visible(root / folder, found)))]
    except OSError as error:
        raise InputError(f"{escape(str(root / folder))}: the folder cannot be read: {error.strerror}") from None
    while inside:
        at = inside[-1]
        entry = next(at.entries, None)
        if entry is None:
            inside.pop()
            continue
        name = f"{at.name}/{entry.name}" if at.name else entry.name
        if not is_folder(entry):
            found.add(root, name, kind_of(entry))
        elif entry.name in SERVICE_FOLDERS:
            found.skipped.append((name, SERVICE))
        else:
            below = _below(root, name, above, seen, found)
            inside += [below] if below else []
    return found


def _below(
    root: Path, name: str, above: set[tuple[int, int]], seen: set[tuple[int, int]], found: Listing
) -> _Folder | None:
    """A folder to go into, noted in `seen` and `found`; None where it is to be left out, which `found` says."""
    try:
        known = identity(root / name)
        if known in above or known in seen:
            found.skipped.append((name, LOOP))
            return None
        entries = iter(visible(root / name, found))
    except OSError as error:
        found.rejected.append((name, f"the folder cannot be read: {error.strerror}"))
        return None
    seen.add(known)
    found.folders[name] = known
    return _Folder(name, entries)


def identity(folder: Path) -> tuple[int, int]:
    """Device and inode: equal for one folder under two names. Raises OSError."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def above_of(folder: Path) -> set[tuple[int, int]]:
    """The identities of all folders that `folder` lies in, by its name and where links lead."""
    found = set()
    for parent in {*folder.absolute().parents, *folder.resolve().parents}:
        with contextlib.suppress(OSError):
            found.add(identity(parent))
    return found


def visible(folder: Path, found: Listing) -> list[os.DirEntry[str]]:
    """Entries of one folder in alphabetical order; hidden ones are counted in `found`. Raises OSError."""
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    hidden = sum(entry.name.startswith(".") for entry in entries)
    if hidden:
        found.ignored[HIDDEN] += hidden
    return [entry for entry in entries if not entry.name.startswith(".")]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; False where the link leads nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def kind_of(entry: os.DirEntry[str]) -> str | None:
    """What an entry is that is no folder: None for a regular file or a link to one, else "a FIFO", for instance."""
    try:
        return None if entry.is_file() else special(entry.stat().st_mode)
    except FileNotFoundError:
        return DANGLING
    except OSError as error:
        return "a link that leads back to itself" if error.errno == errno.ELOOP else f"{error.strerror}"


def unreadable(name: str) -> str | None:
    """Why a file of this name is rejected unread; None for every other."""
    return UNREADABLE.get(os.path.splitext(name)[1].lower())


def begins_like_an_image(path: Path) -> bool:
    """Whether the first bytes of a file are those of an image format; False where it cannot be read."""
    try:
        with open_regular(path) as file:
            start, size = file.read(START_BYTES), os.fstat(file.fileno()).st_size
    except (OSError, InputError):
        return False
    if start.startswith(STARTS) or NETPBM.match(start):
        return True
    if start[4:8] == b"ftyp":
        return start[8:12] in BRANDS
    if start[:4] == b"RIFF":
        return start[8:12] == b"WEBP"
    bitmap = start[:2] == b"BM" and len(start) >= 18
    return bitmap and int.from_bytes(start[2:6], "little") <= size and start[14] in BITMAP_HEADERS
