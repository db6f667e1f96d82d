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
from pipeline.sources.objects import Dataset
from pipeline.store.beton import open_beton
from tests.pipeline.conftest import left

ROOT = Path(__file__).parents[3]

KILL = """
import os, signal, sys
from pathlib import Path
from PIL import Image
from pipeline.convert.conversion import conversion as module
from pipeline.sources.objects import Dataset

def counted(function, moment):
    count = 0
    def wrapped(*arguments, **named):
        nonlocal count
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return wrapped

source = Dataset(40, lambda i: (Image.new("RGB", (16, 16), (i, 0, 0)), i % 2), ("a", "b"))
module.convert(source, Path(sys.argv[1]) / "first.beton")  # compiles once, before the forks
for kill in sys.argv[2:]:
    kind, moment = kill.split(":")
    if os.fork() == 0:
        if kind == "read":
            source.read = counted(source.read, int(moment))
        elif kind == "fsync":
            os.fsync = counted(os.fsync, int(moment))
        elif kind == "replace":
            Path.replace = counted(Path.replace, int(moment))
        else:
            module.read_back = counted(module.read_back, 1)
        module.convert(source, Path(sys.argv[1]) / kill / "train.beton", module.Options(per_class=(2,)))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -9
"""


def test_a_kill_at_any_moment_leaves_nothing_that_opens(tmp_path):
    moments = [f"read:{i}" for i in (1, 20, 40)] + [f"fsync:{i}" for i in (1, 2, 3, 4)] + ["readback:1"]
    late = ["fsync:5", "replace:4"]  # the .beton has its name: the folder's fsync, the first split
    moments += [f"replace:{i}" for i in (1, 2, 3)]
    subprocess.run([sys.executable, "-c", KILL, str(tmp_path), *moments, *late], check=True, cwd=ROOT, timeout=60)
    source = Dataset(40, lambda i: (Image.new("RGB", (16, 16), (i, 0, 0)), i % 2), ("a", "b"))
    for moment in moments:
        out = tmp_path / moment / "train.beton"
        with pytest.raises(InputError):
            open_beton(out)
        assert left(out.parent)  # it had begun
        convert(source, out, Options(per_class=(2,)))
        assert open_beton(out, verify=True).n == 40
        assert not [name for name in left(out.parent) if name.endswith(".partial")]
    for moment in late:
        assert open_beton(tmp_path / moment / "train.beton", verify=True).n == 40


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
