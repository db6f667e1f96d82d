"""JSON objects with a checksum over their own content: what a manifest and a split are written as.

text = to_text({"format": 2, "n": 45})     # {"format": 2, "n": 45, "sha256": "9f0c..."}
content(text.encode(), 2)                  # {"format": 2, "n": 45}

Spaces and line ends are no content; any other change of a byte is noticed, or leaves the content equal.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

CHECKSUM = "sha256"


def to_text(found: Mapping[str, Any], indent: int | None = None) -> str:
    """Write a JSON object and its checksum, in ASCII, as one line or indented, with a line feed at the end."""
    return json.dumps({**found, CHECKSUM: _sha256(found)}, indent=indent) + "\n"


def content(text: bytes, version: int) -> dict[str, Any]:
    """Read what `to_text` wrote, without the checksum.

    Raises ValueError, in one line, if it is no JSON object, its "format" is not `version`, or anything changed.
    """
    found = parsed(text)
    if type(found) is not dict:
        raise ValueError(f"expected a JSON object, got a JSON {type(found).__name__}")
    if type(found.get("format")) is not int or found["format"] != version:
        raise ValueError(f"expected format {version}, got {found.get('format')!r:.40}")
    checksum = found.pop(CHECKSUM, None)
    if checksum != _sha256(found):
        raise ValueError("its checksum is wrong: it was changed after it was written")
    return found


def parsed(text: bytes) -> Any:
    """Parse JSON of any kind, strictly.

    Raises ValueError, in one line, for what is no JSON in UTF-8, for a name that an object has twice, for numbers
    that are not finite or have thousands of digits, and for objects nested deeper than Python can follow.
    """
    try:
        return json.loads(text.decode(), object_pairs_hook=_each_once, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _sha256(found: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return found


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"expected finite numbers, got {digits[:20]}")
    return value
