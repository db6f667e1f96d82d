"""A conversion that is killed, at every call that changes a file's name or waits for the disk."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from pipeline.convert.conversion import Options, convert
from pipeline.errors import InputError
from pipeline.labels.splits import known_labels, load_split, splits
from pipeline.sources.objects import Dataset
from pipeline.store.beton import open_beton
from pipeline.store.sample_names import read_name, read_names
from tests.pipeline.conftest import left

ROOT = Path(__file__).parents[3]
OLD = {"seed": 0, "per_class": [2, 3], "split": []}
NEW = {"seed": 1, "per_class": [2], "split": [0.5]}  # "2-per-class-1", "0.50-1": no old name
SAME = {"seed": 0, "per_class": [2], "split": [0.5]}  # one split of the old one's name and one more

ABSENT = "has no split", "was made for 16 images"

KILL = """
import json, os, signal, sys, shutil
from pathlib import Path
from PIL import Image
from pipeline.convert import conversion
from pipeline.sources.objects import Dataset

CALLS = "replace", "rename", "link", "unlink", "fsync"

def source(shift):
    return Dataset(16, lambda i: (Image.new("RGB", (16, 16), (i, shift, 0)), (i + shift) % 2), ("a", "b"))

def convert(out, shift, asked, overwrite):
    options = conversion.Options(seed=asked["seed"], per_class=tuple(asked["per_class"]), split=tuple(asked["split"]),
                                 overwrite=overwrite, workers=1)
    conversion.convert(source(shift), out, options)

def counting(kill):  # kill before or after the n-th of all calls
    count = 0
    def wrapped(function):
        def call(*arguments, **named):
            nonlocal count
            count += 1
            if kill == (count, "before"):
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return function(*arguments, **named)
            finally:
                if kill == (count, "after"):
                    os.kill(os.getpid(), signal.SIGKILL)
        return call
    for name in CALLS:
        setattr(os, name, wrapped(getattr(os, name)))

root, shift, old, new = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
convert(root / "old" / "train.beton", 0, old, False) if old else (root / "old").mkdir(parents=True)
convert(root / "new" / "train.beton", shift, new, False)
n, when = 1, "before"
while True:
    folder = root / f"{n}-{when}"
    shutil.copytree(root / "old", folder)
    if os.fork() == 0:
        counting((n, when))
        convert(folder / "train.beton", shift, new, bool(old))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    assert code in (0, -signal.SIGKILL)
    if code == 0:  # there is no n-th call
        break
    n, when = (n, "after") if when == "before" else (n + 1, "before")
"""


def found(out: Path, names: list[str]) -> dict | None:
    """All that a user reads of a data set: its digest, labels, names, and the splits of these names; None without."""
    try:
        beton = open_beton(out)
    except InputError:
        return None
    content = {"digest": beton.digest, "labels": known_labels(beton, None)[range(beton.n)].tolist()}
    content |= {"names": read_names(beton), "one": read_name(beton, 3), "classes": beton.manifest.classes}
    for name in names:
        try:
            content[name] = load_split(beton, name).labelled.tolist()
        except InputError as error:
            if not any(each in str(error) for each in ABSENT):
                raise
            content[name] = None
    return content


@pytest.mark.parametrize(("old", "new", "shift"), [
    (None, NEW, 0), (OLD, NEW, 0), (OLD, NEW, 1), (OLD, OLD, 1),
], ids=["nothing before", "another order", "other labels", "other labels, splits of the same names"])  # fmt: skip
def test_a_kill_at_any_call_leaves_all_of_the_old_data_set_or_all_of_the_new_one(tmp_path, old, new, shift):
    arguments = [str(tmp_path), *map(json.dumps, (shift, old, new))]
    subprocess.run([sys.executable, "-c", KILL, *arguments], check=True, cwd=ROOT, timeout=120)
    names = ["2-per-class", "3-per-class", "2-per-class-1", "0.50", "0.50-1"]
    before, after = (found(tmp_path / kind / "train.beton", names) for kind in ("old", "new"))
    assert (before is None) == (old is None)
    assert after != before
    killed, seen = sorted(tmp_path.glob("*-before")) + sorted(tmp_path.glob("*-after")), []
    for folder in killed:
        state = found(folder / "train.beton", names)
        assert state in (before, after), folder.name
        seen.append(state == after)
    assert {True, False} == set(seen)
    assert len(killed) > 20
    source = Dataset(16, lambda i: (Image.new("RGB", (16, 16), (i, shift, 0)), (i + shift) % 2), ("a", "b"))
    again = Options(seed=new["seed"], per_class=tuple(new["per_class"]), split=tuple(new["split"]), overwrite=True)
    for folder in killed:
        convert(source, folder / "train.beton", again)
        assert found(folder / "train.beton", names) == after
        assert left(folder) == left(tmp_path / "new"), folder.name


def test_the_same_file_with_other_splits_has_whichever_of_both_were_written_after_a_kill(tmp_path):
    """The file is the same to the byte, so that all splits are its own."""
    arguments = [str(tmp_path), *map(json.dumps, (0, OLD, SAME))]
    subprocess.run([sys.executable, "-c", KILL, *arguments], check=True, cwd=ROOT, timeout=120)
    names = ["2-per-class", "3-per-class", "0.50"]
    before, after = (found(tmp_path / kind / "train.beton", names) for kind in ("old", "new"))
    assert before["digest"] == after["digest"]
    for folder in tmp_path.glob("*-*"):
        state = found(folder / "train.beton", names)
        assert {name for name in before if state[name] not in (before[name], after[name])} == set()


def test_what_a_kill_left_is_removed_or_named_by_the_next_conversion_and_nothing_else(tmp_path):
    source = Dataset(9, lambda i: (Image.new("RGB", (16, 16), (i, 0, 0)), i % 3), ("a", "b", "c"))
    out = tmp_path / "train.beton"
    convert(source, out, Options(per_class=(1,)))
    for name in ("train.beton.json", "train.beton.names", "train.split-1-per-class.json"):  # killed after the rename
        (tmp_path / name).rename(tmp_path / f"{name}.next")
    (tmp_path / "train.split-mine.json.next").write_text("{")
    (tmp_path / "train.beton.notes.next").write_text("a user's")
    (tmp_path / "other.beton.json.next").write_text("another's")
    expected = found(out, ["1-per-class"])
    assert splits(open_beton(out)) == ["1-per-class", "mine"]
    with pytest.raises(InputError, match="exists"):
        convert(source, out)
    assert left(tmp_path) >= {"train.beton.json.next"}  # refused before anything was looked at
    with pytest.raises(RuntimeError, match="on fire"):
        convert(Dataset(9, fire, ("a",)), out, Options(overwrite=True))
    assert left(tmp_path) == {
        "train.beton", "train.beton.json", "train.beton.names", "train.split-1-per-class.json",
        "train.beton.notes.next", "other.beton.json.next",
    }  # fmt: skip
    assert found(out, ["1-per-class"]) == expected


def fire(i: int):
    raise RuntimeError("the disk is on fire")


def test_ctrl_c_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "images").mkdir()
    Image.effect_noise((400, 400), 50).save(tmp_path / "images/first.png", compress_level=0)
    for i in range(2000):  # many seconds of work, so that a busy machine does not end before the signal
        os.link(tmp_path / "images/first.png", tmp_path / f"images/{i}.png")
    partial = tmp_path / "out" / "a.beton.partial"
    command = [
        sys.executable,
        "-m",
        "pipeline.convert",
        str(tmp_path / "images"),
        str(tmp_path / "out/a.beton"),
    ]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 -- shells let background jobs ignore it
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as run:
        while not (partial.exists() and partial.stat().st_size):
            assert run.poll() is None
            time.sleep(0.005)
        run.send_signal(signal.SIGINT)
        said = run.stderr.read()
    assert (run.returncode, said) == (130, "interrupted\n")
    assert left(partial.parent) == set()
