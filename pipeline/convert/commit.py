"""Write next to the final name, read back, and give all files their names at the end, the .beton last."""

import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.backends.libffcv import decode
from pipeline.convert.writer import Written
from pipeline.errors import InputError
from pipeline.store.manifest import Manifest, manifest_path, to_json
from pipeline.store.sample_names import names_path
from pipeline.store.sigbus import guard


def partial_path(path: Path) -> Path:
    """Where a file is written before it may have its name."""
    return path.with_name(path.name + ".partial")


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """The path to write `out` to. What is not committed is removed, and no second process may write it meanwhile.

    Raises InputError if another process is writing it, or the disk refuses.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = partial_path(out).open("ab")
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{out} is being written by another process; wait for it to end") from None
        try:
            yield partial_path(out)
        except OSError as error:
            raise InputError(f"{out} cannot be written: {error}") from error
        finally:
            for path in (out, manifest_path(out), names_path(out)):
                partial_path(path).unlink(missing_ok=True)


def read_back(partial: Path, written: Written, pool: Executor) -> None:
    """Decode every sample of a file just written. Raises InputError if one is not what was meant to be written."""
    data = np.memmap(partial, np.uint8, mode="r").view(np.ndarray)
    guard(data, partial)

    def wrong(start: int) -> list[int]:
        some = range(start, min(start + 256, len(written.table)))
        return [i for i in some if not _decodes(data, written, i)]

    for found in pool.map(wrong, range(0, len(written.table), 256)):
        if found:
            raise InputError(f"{partial}: sample {found[0]} came back damaged from the disk; check it, then run again")


def _decodes(data: np.ndarray, written: Written, i: int) -> bool:
    start, size, image = int(written.table["offset"][i]), int(written.table["size"][i]), written.samples["image"][i]
    return decode(data[start : start + size], int(image["height"]), int(image["width"])) is not None


def commit(out: Path, manifest: Manifest, names: bytes) -> None:
    """Manifest and names first: they fit no other file, so the rename of the .beton decides."""
    texts = {manifest_path(out): to_json(manifest).encode(), names_path(out): names}
    for path, text in texts.items():
        with partial_path(path).open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    for path in (*texts, out):
        partial_path(path).replace(path)
    folder = os.open(out.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
