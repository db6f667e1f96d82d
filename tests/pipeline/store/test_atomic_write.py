"""A file is whole, or the one before."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.store import atomic_write
from pipeline.store.atomic_write import check_writable, write_whole

ROOT = Path(__file__).parents[3]


def test_text_and_bytes_are_written_and_nothing_else_stays(tmp_path):
    write_whole(tmp_path / "a", "caf\u00e9\n")
    assert (tmp_path / "a").read_bytes() == b"caf\xc3\xa9\n"
    write_whole(tmp_path / "a", b"\xff")
    assert (tmp_path / "a").read_bytes() == b"\xff"
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_has_the_rights_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_file_before(tmp_path, monkeypatch, step):
    write_whole(tmp_path / "a", "old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_write.os, step, refuse)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", "new")
    monkeypatch.undo()
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_kill_at_the_last_moment_leaves_the_file_before(tmp_path):
    write_whole(tmp_path / "a", "old")
    code = f"""
import os, signal
from pathlib import Path
from pipeline.store import atomic_write
atomic_write.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
atomic_write.write_whole(Path({str(tmp_path / "a")!r}), "new")
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == -9
    assert (tmp_path / "a").read_text() == "old"


def test_threads_that_write_one_file_do_not_mix(tmp_path):
    path, texts, seen = tmp_path / "a", [letter * 200_000 for letter in "abcd"], set()
    write_whole(path, texts[0])
    writers = [
        threading.Thread(target=lambda text=text: [write_whole(path, text) for _ in range(20)]) for text in texts
    ]
    for thread in writers:
        thread.start()
    while any(thread.is_alive() for thread in writers):
        seen.add(path.read_text())
    assert seen <= set(texts)
    assert os.listdir(tmp_path) == ["a"]


READ_ONLY = Path("/proc")
"""A file system that takes no file, whoever asks; a folder's permissions do not stop root."""


def test_a_place_that_can_be_written_passes_and_nothing_is_left_there(tmp_path):
    check_writable(tmp_path / "new")
    (tmp_path / "old").write_text("x")
    check_writable(tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (READ_ONLY / "a.csv", r"--out /proc/a\.csv: nothing can be written in /proc \(.+\); choose another place"),
        (Path("/nowhere/a.csv"), "expected an existing folder, /nowhere is no folder"),
        (Path("/dev/null/a.csv"), "expected an existing folder, /dev/null is no folder"),
        (Path("/tmp"), "--out /tmp is a folder, expected a file to write"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_line(path, message):
    with pytest.raises(InputError, match=message) as caught:
        check_writable(path)
    assert "\n" not in str(caught.value)


def test_the_message_names_what_was_asked_for():
    with pytest.raises(InputError, match=r"^--html /proc/a: nothing"):
        check_writable(READ_ONLY / "a", "--html")
