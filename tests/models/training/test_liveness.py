import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.records.events import NODE
from models.training import liveness
from models.training.liveness import FIRST, PAUSED, Heartbeat, heartbeats, position

ROOT = Path(__file__).parents[3]
HANGS = """
import ctypes, sys, time
from pathlib import Path
from models.training.liveness import HangTimeout, Heartbeat

folder = Path(sys.argv[1])
hang_timeout = HangTimeout(folder, 0, int(sys.argv[2]), 0.4)
Heartbeat(folder, 1)(7)
%s
hang_timeout.close()
print("alive")
"""


def run(folder: Path, doing: str, ranks: int = 1) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", HANGS % doing, str(folder), str(ranks)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def failure(folder: Path) -> dict:
    return json.loads((folder / "failed" / "rank-0.json").read_text())


def test_a_step_that_never_ends_ends_the_process_which_says_where(tmp_path: Path) -> None:
    ended = run(tmp_path, "hang_timeout(5)\ntime.sleep(60)")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "MainThread sleeps" in ended.stderr
    assert failure(tmp_path)["error"].startswith("TimeoutError: no step for 0 s after step 5, in <string>:")
    assert not failure(tmp_path)["secondary"]
    assert failure(tmp_path)["error"] in ended.stderr


COMPILES = """
import threading
module = {"time": time}
path = "/x/site-packages/torch/_inductor/compile_fx.py"
exec(compile("def compile_fx():\\n    time.sleep(%s)", path, "exec"), module)
hang_timeout(5)
thread = threading.Thread(target=module["compile_fx"], daemon=True)  # as autograd's compiles a backward graph
thread.start()
thread.join()
hang_timeout(6)
"""


@pytest.mark.parametrize(
    "doing",
    [
        COMPILES % 1.2,
        "for step in range(10):\n    hang_timeout(step)\n    time.sleep(0.1)",  # longer than the timeout, together
        "time.sleep(1.2)",  # the first step compiles
        "hang_timeout(1)\nwith hang_timeout.extended():\n    time.sleep(1.2)\nhang_timeout(2)",  # an evaluation
    ],
)
def test_what_takes_its_time_is_left_alone(tmp_path: Path, doing: str) -> None:
    assert FIRST * 0.4 > 1.3 < PAUSED * 0.4
    ended = run(tmp_path, doing)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "alive\n", "")


@pytest.mark.parametrize(
    "doing", ["time.sleep(60)", "with hang_timeout.extended():\n    time.sleep(60)", COMPILES % 60]
)
def test_more_time_is_not_all_the_time(tmp_path: Path, doing: str) -> None:
    assert run(tmp_path, doing).returncode == 1
    assert "no step for 2 s" in failure(tmp_path)["error"]


WAITS = """
module = {"time": time}
exec(compile("def all_reduce():\\n    time.sleep(60)", "/x/torch/distributed/distributed_c10d.py", "exec"), module)
hang_timeout(5)
module["all_reduce"]()
"""


def test_a_rank_that_waits_for_others_ends_after_them_and_names_their_last_steps(tmp_path: Path) -> None:
    ended = run(tmp_path, WAITS, ranks=2)
    assert ended.returncode == 1
    assert (
        "timed out waiting for other ranks, whose last heartbeats are of steps 7 (rank 1 on"
        in failure(tmp_path)["error"]
    )
    assert failure(tmp_path)["secondary"]


def test_python_that_stands_still_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library keeps Python's lock: no thread of ours runs."""
    locked = "hang_timeout(5)\nctypes.PyDLL(None).usleep(20_000_000)"
    short = "import models.training.liveness as here\nhere.SPARE_S = 0.5\ntime.sleep(0.1)\n"
    ended = run(tmp_path, short + locked)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "File" in ended.stderr


def test_a_position_names_a_line_of_our_own() -> None:
    place, waits = position(sys._getframe())
    assert place.startswith("test_liveness.py:")
    assert not waits


def test_a_heartbeat_is_written_every_ten_seconds_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(liveness.time, "monotonic", lambda: clock[0])
    beat = Heartbeat(tmp_path, 2)
    found = []
    for step, at_s in enumerate([100.0, 101.0, 109.9, 110.1, 115.0, 121.0], 1):
        clock[0] = at_s
        beat(step)
        found.append(heartbeats(tmp_path)[2]["step"])
    assert found == [1, 1, 1, 4, 4, 6]
    assert json.loads((tmp_path / "heartbeat" / "rank-2").read_text())["node"] == NODE
