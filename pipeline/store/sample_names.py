r"""Names of samples and classes as text that every output can hold, and the file `<file>.beton.names` that keeps them.

    escape("caf\udce9/a\n.jpg")     # caf\xe9/a\n.jpg, one line of UTF-8; unescape gives the name back

A file name is bytes. Python holds a byte that is no UTF-8 as a lone surrogate, which cannot be printed or written as
UTF-8, so a name is escaped once, where it comes in (`pipeline.sources`, `models.predict`), and every output takes it
as it is. The names file has one escaped name a line in sample order, so `grep -n` finds a sample (line i + 1 is sample
i). Its SHA-256 is in the manifest and part of the file's digest.
"""

import hashlib
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from pipeline.errors import InputError
from pipeline.store.beton import Beton
from pipeline.store.pending import candidates, next_path

_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(\\|n|r|t|x[89a-f][0-9a-f]|u[0-9a-f]{4})")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PLAIN = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}
_BYTE = 0xDC00  # os.fsdecode holds a byte that is no UTF-8 as this code point and the byte


def escape(name: str) -> str:
    """Write a name as one line of UTF-8, in Python's escapes; `unescape` gives the same name back.

    A byte that is no UTF-8 becomes `\\xe9`, a line feed `\\n`, another control character or lone surrogate `\\u001b`,
    and a backslash two of them.
    """
    return printable(name.replace("\\", "\\\\"))


def printable(text: str) -> str:
    """Replace what one line of UTF-8 cannot hold, as `escape` does, but leave backslashes as they are.

    Text that is printable already, an escaped name for one, stays the same.
    """
    return _UNFIT.sub(_replaced, text)


def brief(text: str, most: int = 60) -> str:
    """Make text printable and cut it to `most` characters, for a message."""
    whole = printable(text)
    return whole if len(whole) <= most else f"{whole[:most]}..."


def unescape(text: str) -> str:
    """Give the name that `escape` was given."""
    return _ESCAPED.sub(_original, text)


def _replaced(found: re.Match[str]) -> str:
    code = ord(found[0])
    if _BYTE + 0x80 <= code <= _BYTE + 0xFF:
        return f"\\x{code - _BYTE:02x}"
    return _SHORT.get(found[0], f"\\u{code:04x}")


def _original(found: re.Match[str]) -> str:
    kind, digits = found[1][0], found[1][1:]
    if not digits:
        return _PLAIN[kind]
    return chr(int(digits, 16) + (_BYTE if kind == "x" else 0))


def names_path(beton: Path) -> Path:
    """train.beton -> train.beton.names."""
    return beton.with_name(beton.name + ".names")


def encode_names(names: Iterable[str]) -> bytes:
    """The contents of a names file; names that are not escaped yet are made printable, so that each is one line."""
    return b"".join(printable(name).encode() + b"\n" for name in names)


def read_names(beton: Beton) -> list[str]:
    """The names of all samples, escaped, in order.

    Raises InputError if the names file is missing or not this file's.
    """
    path = names_path(beton.path)
    found = candidates(path)
    if not found:
        raise InputError(f"{path}: no such file; it is written by pipeline.convert and moves with {beton.path.name}")
    for each in found:
        try:
            text = each.read_bytes()
        except OSError as error:
            raise InputError(f"{each} cannot be read: {error.strerror}") from None
        if hashlib.sha256(text).hexdigest() == beton.manifest.names_sha256:
            return text.decode().split("\n")[:-1]
    raise InputError(f"{path} does not hold the names of {beton.path.name}; run pipeline.convert again")


def read_name(beton: Beton, i: int) -> str | None:
    """The name of sample `i`, escaped, or None without a names file; unlike `read_names` it checks no digest."""
    path = names_path(beton.path)
    try:
        if next_path(path).is_file():  # a conversion was killed as it replaced the file: which of two is it?
            return read_names(beton)[i]
        if not path.is_file():
            return None
        with open(path, "rb") as lines:
            return next(islice(lines, i, None)).decode().rstrip("\n")
    except (OSError, InputError, IndexError, StopIteration, UnicodeDecodeError):
        return None
