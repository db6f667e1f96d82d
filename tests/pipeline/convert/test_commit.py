"""Two that write one name: neither replaces what the other has finished, and neither is left half written."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.convert import commit, conversion
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.labels.splits import load_split
from pipeline.sources.objects import Dataset
from pipeline.store.beton import open_beton
from pipeline.store.sample_names import read_names
from tests.pipeline.conftest import left

ROOT = Path(__file__).parents[3]
FILES = {"a.beton", "a.beton.json", "a.beton.names"}


def source(shade: int, n: int = 9) -> Dataset:
    return Dataset(n, lambda i: (Image.new("RGB", (16, 16), (shade, i, 0)), i % 3), ("a", "b", "c"))


def test_a_file_that_is_finished_during_a_slow_listing_is_not_replaced(tmp_path, monkeypatch):
    theirs, listed = [], conversion.find

    def slow(*arguments):
        if not theirs:
            theirs.append(None)
            theirs[0] = convert(source(1), tmp_path / "a.beton", Options(per_class=(1,)))
        return listed(*arguments)

    monkeypatch.setattr(conversion, "find", slow)
    with pytest.raises(InputError, match=r"a\.beton exists; choose another name, or replace it with --overwrite"):
        convert(source(2), tmp_path / "a.beton", Options(per_class=(2,)))
    beton = open_beton(tmp_path / "a.beton", verify=True)
    assert beton.digest == theirs[0].digest
    assert load_split(beton, "1-per-class").labelled.size == 3
    assert left(tmp_path) == {*FILES, "a.split-1-per-class.json"}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_just_before_the_rename_is_not_replaced(tmp_path, monkeypatch, links):
    """Not by a conversion, which would wait for the lock: by a copy."""
    convert(source(1), tmp_path / "theirs" / "a.beton")
    synced, out = commit.sync_folder, tmp_path / "a.beton"

    def appear(folder):
        synced(folder)
        out.write_bytes((tmp_path / "theirs" / "a.beton").read_bytes())

    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(commit, "sync_folder", appear)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(InputError, match=r"a\.beton exists"):
        convert(source(2), out)
    assert out.read_bytes() == (tmp_path / "theirs" / "a.beton").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.beton", "theirs"}


@pytest.mark.parametrize("number", commit.NO_HARD_LINKS)
def test_storage_without_hard_links_is_written_all_the_same(tmp_path, monkeypatch, number):
    def no_links(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_links)
    digest = convert(source(1), tmp_path / "a.beton").digest
    assert open_beton(tmp_path / "a.beton", verify=True).digest == digest
    assert left(tmp_path) == FILES


def test_a_disk_that_fails_at_the_rename_is_one_line_and_leaves_the_file_before(tmp_path, monkeypatch):
    digest, out = convert(source(1), tmp_path / "a.beton").digest, tmp_path / "a.beton"
    monkeypatch.setattr(
        commit, "_give_name", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error"))
    )
    with pytest.raises(InputError, match=r"a\.beton cannot be written: .*Input/output error"):
        convert(source(2), out, Options(overwrite=True, per_class=(1,)))
    assert open_beton(out, verify=True).digest == digest
    assert left(tmp_path) == FILES


MANY = """
import os, sys
from pathlib import Path
from PIL import Image
from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.sources.objects import Dataset

def source(shade):
    return Dataset(9, lambda i: (Image.new("RGB", (16, 16), (shade, i, 0)), i % 3), ("a", "b", "c"))

out, overwrite, n = Path(sys.argv[1]), sys.argv[2] == "overwrite", int(sys.argv[3])
convert(source(0), out.with_name("first.beton"))  # compiles
ready, go = os.pipe()
for shade in range(1, n + 1):
    if os.fork() == 0:
        os.close(go)
        os.read(ready, 1)  # until all are there
        try:
            convert(source(shade), out, Options(overwrite=overwrite, workers=1, per_class=(shade % 3 + 1,)))
        except InputError as error:
            os._exit(1 if "exists" in str(error) or "is being written by another process" in str(error) else 2)
        os._exit(0)
os.close(ready)
os.close(go)
print(sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(n)))
"""


@pytest.mark.parametrize("how", ["keep", "overwrite"])
def test_of_many_processes_that_write_one_name_each_ends_whole_or_in_a_line(tmp_path, how):
    command = [sys.executable, "-c", MANY, str(tmp_path / "a.beton"), how, "12"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    codes = json.loads(done.stdout)
    assert set(codes) <= {0, 1}
    assert codes.count(0) == 1 if how == "keep" else codes.count(0) >= 1
    beton = open_beton(tmp_path / "a.beton", verify=True)
    assert len(read_names(beton)) == 9
    (split,) = tmp_path.glob("a.split-*.json")
    name = split.name.removeprefix("a.split-").removesuffix(".json")
    assert load_split(beton, name).labelled.size == 3 * int(name[0])
    assert {name for name in left(tmp_path) if not name.startswith("first")} == {*FILES, split.name}


def test_a_lock_that_a_kill_left_hinders_nobody_and_goes(tmp_path):
    (tmp_path / "a.beton.lock").touch()
    (tmp_path / "a.beton.partial").write_bytes(b"half")
    convert(source(1), tmp_path / "a.beton")
    assert left(tmp_path) == FILES


def test_storage_that_locks_nothing_is_one_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"this storage locks no files \(No locks available\); write to another disk"):
        convert(source(1), tmp_path / "a.beton")
    assert left(tmp_path) == set()


def test_what_was_killed_between_link_and_unlink_is_never_written_into(tmp_path):
    """The unfinished file is then a second name of the finished one."""
    out = tmp_path / "a.beton"
    digest = convert(source(1), out).digest
    os.link(out, tmp_path / "a.beton.partial")
    with pytest.raises(RuntimeError, match="on fire"):
        convert(Dataset(9, fire, ("a",)), out, Options(overwrite=True))
    assert open_beton(out, verify=True).digest == digest
    assert left(tmp_path) == FILES


def fire(i: int):
    raise RuntimeError("the disk is on fire")


def test_a_name_that_is_a_link_to_nothing_is_taken(tmp_path):
    (tmp_path / "a.beton").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"a\.beton exists"):
        convert(source(1), tmp_path / "a.beton")
    assert left(tmp_path) == {"a.beton"}


def test_a_file_that_is_replaced_as_it_is_opened_is_opened_anew(tmp_path, monkeypatch):
    """Else rows of one file and bytes of another could be mixed."""
    from pipeline.store import beton as module

    out, vouched, calls = tmp_path / "a.beton", module._vouched, []
    convert(source(1), out)

    def replaced(layout, verify):
        found = vouched(layout, verify)
        calls.append(layout)
        if len(calls) == 1:
            convert(source(2), out, Options(overwrite=True, seed=5))
        return found

    monkeypatch.setattr(module, "_vouched", replaced)
    beton = open_beton(out)
    monkeypatch.undo()
    assert len(calls) == 3  # ours, the conversion's own look at what it wrote, ours again
    fresh = open_beton(out, verify=True)
    assert (beton.digest, bytes(beton.jpeg(0))) == (fresh.digest, bytes(fresh.jpeg(0)))


def test_a_folder_whose_name_is_no_utf8_holds_a_data_set_like_any_other(tmp_path):
    out = tmp_path / "caf\udce9" / "a.beton"
    digest = convert(source(1), out, Options(per_class=(1,))).digest
    beton = open_beton(out, verify=True)
    assert beton.digest == digest
    assert load_split(beton, "1-per-class").labelled.size == 3
    for command in (["pipeline.store", str(out)], ["pipeline.split", "make", str(out), "--per-class", "2"]):
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"caf\\udce9/a." in done.stdout
