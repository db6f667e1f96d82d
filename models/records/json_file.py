"""Read a file that holds one JSON object; a file that does not is one line. The standard library only."""

import json
from pathlib import Path

from pipeline.errors import InputError


def read_object(path: Path, todo: str, *, absent: dict | None = None) -> dict:
    """Return the object in a JSON file, of any content.

    read_object(folder / "recipe.json", "restore it, or leave the run out")

    todo    what the user can do about a file that cannot be read
    absent  what to return where there is no such file; None refuses that, too

    Raises InputError for a file that is missing or cannot be read, is no UTF-8 or JSON, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes().decode())
    except FileNotFoundError as error:
        if absent is not None:
            return absent
        raise InputError(f"{path}: no such file; {todo}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {todo}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); {todo}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(found).__name__}; {todo}")
    return found
