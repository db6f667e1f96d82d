"""`<file>.beton.names`: where each sample came from, one name a line in sample order, so published lists can be found.

Plain UTF-8, so `grep -n` finds a sample (line i + 1 is sample i). Backslash, line feed, carriage return and bytes that
are not UTF-8 are escaped as in Python. Its SHA-256 is in the manifest and part of the file's digest.
"""

import hashlib
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from pipeline.errors import InputError
from pipeline.store.beton import Beton

_ESCAPED = re.compile(r"\\(\\|n|r|u[0-9a-f]{4})")
_PLAIN = {"\\": "\\", "n": "\n", "r": "\r"}


def names_path(beton: Path) -> Path:
    """train.beton -> train.beton.names."""
    return beton.with_name(beton.name + ".names")


def encode_names(names: Iterable[str]) -> bytes:
    """The contents of a names file."""
    return b"".join(_escape(name) + b"\n" for name in names)


def read_names(beton: Beton) -> list[str]:
    """The names of all samples, in order. Raises InputError if the names file is missing or not this file's."""
    path = names_path(beton.path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; it is written by pipeline.convert and moves with {beton.path.name}")
    text = path.read_bytes()
    if hashlib.sha256(text).hexdigest() != beton.manifest.names_sha256:
        raise InputError(f"{path} does not hold the names of {beton.path.name}; run pipeline.convert again")
    return [_unescape(line) for line in text.decode().split("\n")[:-1]]


def read_name(beton: Beton, i: int) -> str | None:
    """The name of sample `i`, or None where there is no names file; unlike `read_names` it checks no digest."""
    try:
        with open(names_path(beton.path), "rb") as lines:
            return _unescape(next(islice(lines, i, None)).decode().rstrip("\n"))
    except (OSError, StopIteration, UnicodeDecodeError):
        return None


def _escape(name: str) -> bytes:
    plain = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return plain.encode("utf-8", "backslashreplace")


def _unescape(line: str) -> str:
    return _ESCAPED.sub(lambda found: _PLAIN.get(found[1]) or chr(int(found[1][1:], 16)), line)
