"""Files that vanish under their memory map: one line and exit code 1, from whatever thread; no other signal is caught.

Each case is a process of its own: the handler ends it.
"""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.store import sigbus

BEFORE = """if True:
    import faulthandler, os, signal, sys
    from pathlib import Path
    import numpy as np
    from pipeline.store.sigbus import guard

    def open_map(path):
        return np.memmap(path, np.uint8, mode="r").view(np.ndarray)

    first, second = (Path(argument) for argument in sys.argv[1:])
    """
OPENED = """a, b = open_map(first), open_map(second)
    guard(a, first)
    guard(b, second)
    """


def run(code: str, *arguments: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def two(tmp_path) -> list[Path]:
    """Two files of a MiB of ones."""
    paths = [tmp_path / "first.beton", tmp_path / "second.beton"]
    for path in paths:
        path.write_bytes(b"\1" * (1 << 20))
    return paths


def said(path: Path) -> str:
    return (
        f"error: {path} can no longer be read (bus error): it was cut short, or the storage under it is gone; see that "
        f"it is mounted and whole (python -m pipeline.store {path}), then run again\n"
    )


READS = {
    "in Python": "b[1 << 19]",
    "in numpy, to the end": "b[4096:].sum()",
    "in a thread": "import threading; t = threading.Thread(target=b.sum); t.start(); t.join()",
    "in a copy that outlives the array": "c = b[4096:]; del b; c.sum()",
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_file_cut_short_is_named_and_ends_the_process_with_code_1(read, two) -> None:
    done = run(
        BEFORE + OPENED + "os.truncate(second, 4096); print(b[:4096].sum(), a.sum(), flush=True)\n    " + read, *two
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "4096 1048576\n", said(two[1]))


def test_files_that_stay_are_read_and_nothing_is_said(two) -> None:
    done = run(BEFORE + OPENED + "print(a.sum() + b.sum())", *two)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{2 << 20}\n", "")


def test_a_map_of_somebody_else_is_not_blamed_on_a_file(two) -> None:
    """It dies as it would have: by the signal."""
    done = run(
        BEFORE + "a, b = open_map(first), open_map(second); guard(a, first)\n    os.truncate(second, 0); b[9]", *two
    )
    assert (done.returncode, done.stderr) == (-signal.SIGBUS, "")
    two[1].write_bytes(two[0].read_bytes())
    closed = OPENED + "del b; import gc; gc.collect(); b = open_map(second)\n    os.truncate(second, 0); b[9]"
    done = run(BEFORE + closed, *two)
    assert (done.returncode, done.stderr) == (-signal.SIGBUS, "")  # most likely at the same address


@pytest.mark.parametrize("when", ["before", "after"])
def test_faulthandler_stays_usable(when, two) -> None:
    enable = "faulthandler.enable()\n    "
    guarded = enable + OPENED if when == "before" else OPENED + enable
    done = run(BEFORE + guarded + "os.truncate(first, 0); a[9]", *two)
    assert (done.returncode, done.stderr.splitlines()[-1] + "\n") == (1, said(two[0]))
    two[0].write_bytes(two[1].read_bytes())
    other = run(BEFORE + guarded + "c = open_map(second); os.truncate(second, 0); c[9]", *two)
    assert other.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in other.stderr
    assert "can no longer be read" not in other.stderr
    two[1].write_bytes(two[0].read_bytes())
    fault = run(BEFORE + guarded + "faulthandler._sigsegv()", *two)
    assert fault.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in fault.stderr


def test_a_forked_child_is_guarded_too(two) -> None:
    code = "os.truncate(first, 0)\n    if os.fork() == 0: a[9]\n    print(os.waitstatus_to_exitcode(os.wait()[1]))"
    done = run(BEFORE + OPENED + code, *two)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", said(two[0]))


def test_more_files_than_can_be_named_are_opened_and_closed(two) -> None:
    files = sigbus._installed().files
    gc.collect()
    taken = sum(bool(file[1]) for file in files)
    for _ in range(2):
        maps = [np.memmap(two[0], np.uint8, mode="r").view(np.ndarray) for _ in range(sigbus.SLOTS + 3)]
        for each in maps:
            sigbus.guard(each, two[0])
        assert all(file[1] for file in files)
        del maps, each
        gc.collect()
        assert sum(bool(file[1]) for file in files) == taken
    sigbus.guard(np.zeros(10, np.uint8), two[0])  # no map: nothing can fail
    assert sum(bool(file[1]) for file in files) == taken


def test_a_beton_cut_short_under_a_loader_ends_with_the_line(beton, tmp_path) -> None:
    """The read that fails is libjpeg's, in a decoder thread, without the GIL."""
    for path in beton.path.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    code = """if True:
        import os, sys, torch
        from pipeline.loader import Loader
        from pipeline.open import open_backend
        from pipeline.spec import Data, Needs
        from pipeline.train_data import loader_spec, open_train_data
        data, needs = Data(sys.argv[1], batch=32, size=16, backend="ffcv", threads=2), Needs(unlabelled=True)
        train_data = open_train_data(data, needs)
        fed = loader_spec(train_data, data, needs, patch=8, total_steps=10)
        with Loader(fed, open_backend(data, train_data.beton, torch.device("cpu")), torch.device("cpu")) as batches:
            next(batches)
            print("running", flush=True)
            os.truncate(train_data.beton.path, 4096)
            for _ in range(10):
                next(batches)"""
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout) == (1, "running\n")
    assert done.stderr == said(tmp_path / "train.beton")
    assert os.path.getsize(tmp_path / "train.beton") == 4096
