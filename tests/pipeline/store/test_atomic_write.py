"""A file is whole, or the one before."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.store import atomic_write
from pipeline.store.atomic_write import write_whole

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
