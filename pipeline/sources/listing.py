"""What lies below a folder: images by their names, images by their content alone, and everything else."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"}
STARTS = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  "
KINDS = b"WEBP", b"heic", b"heix", b"mif1", b"avif"  # bytes 8 to 11 of RIFF and ISO media files
NAMELESS = "no suffix"


@final
@dataclass
class Listing:
    """Files by what they look like; names are relative to the root, with slashes.

    images    have an image's suffix
    rejected  (name, reason) of those that have another one, but begin like an image: left out, and worth a word
    ignored   how many other files there are of each suffix
    """

    images: list[str] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def add(self, root: Path, name: str) -> None:
        """Put a file where it belongs."""
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            self.images.append(name)
        elif _begins_like_an_image(root / name):
            self.rejected.append((name, "an image by its content, but not by its name"))
        else:
            self.ignored[suffix or NAMELESS] += 1

    def extend(self, other: "Listing") -> None:
        """Take over what another listing has."""
        self.images += other.images
        self.rejected += other.rejected
        self.ignored += other.ignored


def listing(root: Path, folder: str = "") -> Listing:
    """All files below `root`/`folder`, in alphabetical order; hidden ones and what is in hidden folders left out."""
    found = Listing()
    for entry in visible(root / folder):
        name = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_dir():
            found.extend(listing(root, name))
        else:
            found.add(root, name)
    return found


def visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Entries of one folder in alphabetical order, without hidden ones."""
    with os.scandir(folder) as entries:
        yield from sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _begins_like_an_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(STARTS) or ((start[4:8] == b"ftyp" or start[:4] == b"RIFF") and start[8:] in KINDS)
