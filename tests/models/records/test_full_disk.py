"""The message of a full disk names the disk that is full."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from models.checkpoint.checksummed import disk_error
from models.records import full_disk
from models.records.failures import FailureLog
from models.records.full_disk import full_folder
from pipeline.errors import InputError

FULL = OSError(errno.ENOSPC, "No space left on device")


def raised_in(file: str) -> OSError:
    """A full disk that a function of this file has met."""
    code = compile("def write(error):\n    raise error\n", file, "exec")
    names: dict = {}
    exec(code, names)
    with pytest.raises(OSError, match="No space left") as caught:
        names["write"](OSError(errno.ENOSPC, "No space left on device"))
    return caught.value


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("run", "cache", "temporary")}
    for path in found.values():
        path.mkdir()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(found["cache"]))
    monkeypatch.setattr(tempfile, "tempdir", str(found["temporary"]))
    return found


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("/venv/numba/core/caching.py", "cache"),
        ("/usr/lib/python3.12/tempfile.py", "temporary"),
        ("/venv/torch/_inductor/codecache.py", "temporary"),
        ("/code/models/reporting/journal.py", "run"),
    ],
)
def test_a_full_disk_is_named_by_who_writes(file: str, place: str, places: dict[str, Path]) -> None:
    assert full_folder(raised_in(file), places["run"]) == places[place]


def test_the_file_that_the_error_names_counts_first(places: dict[str, Path]) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/scratch/x/part")
    assert full_folder(error, places["run"]) == Path("/scratch/x")


@pytest.mark.parametrize("place", ["run", "cache", "temporary"])
def test_else_the_one_without_space_is_named(place: str, places: dict[str, Path], monkeypatch) -> None:
    monkeypatch.setattr(full_disk, "_is_full", lambda folder: folder == places[place])
    assert full_folder(FULL, places["run"]) == places[place]


def test_this_machines_disks_are_not_taken_for_full(tmp_path: Path) -> None:
    assert not full_disk._is_full(tmp_path)
    assert not full_disk._is_full(tmp_path / "absent")
    assert os.statvfs(tmp_path).f_bavail > 0


def test_a_runs_error_names_the_cache(places: dict[str, Path]) -> None:
    with (
        pytest.raises(
            InputError, match=f"^cannot write in {places['cache']}: No space left on device; free some space"
        ),
        FailureLog(places["run"], 0, 1),
    ):
        raise raised_in("/venv/numba/core/caching.py")


def test_a_checkpoint_of_before_is_spoken_of_where_there_is_one(tmp_path: Path) -> None:
    assert "; there is none from before: free some space" in str(disk_error(tmp_path, FULL))
    (tmp_path / "last.pt").touch()
    assert "; the one before is intact: free some space" in str(disk_error(tmp_path, FULL))
    refused = OSError(errno.EROFS, os.strerror(errno.EROFS))
    assert "; the one before is intact: make it writable" in str(disk_error(tmp_path, refused))
