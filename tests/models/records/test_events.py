import multiprocessing
import subprocess
import sys
from pathlib import Path

from models.records import events


def _write(folder: Path, writer: int) -> None:
    for number in range(200):
        events.append(folder, "started", rank=writer, number=number, padding="x" * 300)


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


def test_a_line_cut_short_is_skipped_and_none_is_not_written(tmp_path: Path) -> None:
    assert events.read(tmp_path) == []
    row = events.append(tmp_path, "stopped", step=3, why=None)
    with open(tmp_path / events.FILE, "a") as file:
        file.write('{"time": 1, "eve')
    assert events.read(tmp_path) == [row]
    assert set(row) == {"time", "event", "step"}


def test_the_latest_value_of_a_key_is_found(tmp_path: Path) -> None:
    assert events.latest(tmp_path, "backend") is None
    for backend in ("memory", "ffcv"):
        events.append(tmp_path, "decoding", backend=backend)
    events.append(tmp_path, "stopped", step=3)
    assert events.latest(tmp_path, "backend") == "ffcv"


def test_the_records_are_imported_without_torch() -> None:
    names = ["events", "exit_codes", "failures", "jsonl", "metrics", "run_folder"]
    script = f"import sys; from models.records import {', '.join(names)}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
