import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from models.records import events
from models.records.events import Heartbeat


def _write(folder: Path, writer: int) -> None:
    for number in range(200):
        events.note(folder, "started", rank=writer, number=number, padding="x" * 300)


def test_lines_of_many_writers_never_mix(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write, args=(tmp_path, writer)) for writer in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    rows = events.read(tmp_path)
    assert len(rows) == 800
    for writer in range(4):
        assert [row["number"] for row in rows if row["rank"] == writer] == list(range(200))


def test_a_torn_line_is_left_out_and_absent_is_not_written(tmp_path: Path) -> None:
    assert events.read(tmp_path) == []
    row = events.note(tmp_path, "stopped", step=3, why=None)
    with open(tmp_path / events.FILE, "a") as file:
        file.write('{"time": 1, "eve')
    assert events.read(tmp_path) == [row]
    assert set(row) == {"time", "event", "step"}


def test_the_latest_word_on_something_is_found(tmp_path: Path) -> None:
    assert events.latest(tmp_path, "backend") is None
    for backend in ("memory", "ffcv"):
        events.note(tmp_path, "decoding", backend=backend)
    events.note(tmp_path, "stopped", step=3)
    assert events.latest(tmp_path, "backend") == "ffcv"


def test_a_heart_beats_every_ten_seconds_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(events.time, "monotonic", lambda: clock[0])
    beat = Heartbeat(tmp_path, 2)
    found = []
    for step, at_s in enumerate([100.0, 101.0, 109.9, 110.1, 115.0, 121.0], 1):
        clock[0] = at_s
        beat(step)
        found.append(events.heard(tmp_path)[2]["step"])
    assert found == [1, 1, 1, 4, 4, 6]
    assert json.loads((tmp_path / "heartbeat" / "rank-2").read_text())["node"] == events.NODE


def test_a_batch_script_may_import_it_without_torch() -> None:
    script = "import sys, models.records.events; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
