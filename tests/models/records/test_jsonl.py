"""Rows that a disk or a kill has damaged: left out, counted and named."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.records import events, metrics
from models.records.jsonl import append_line, left_out, read_lines
from pipeline.errors import InputError

ROW = {
    "step": 3, "epoch": 1.0, "lr": 1e-3, "loss": 2.5, "gradient_norm": None, "parts": {"masked": 0.5},
    "pseudo": {"passed": 0.5}, "timing": {"images_per_s": 9.5, "wait_share": 0.1, "elapsed_s": 3.0},
}  # fmt: skip
EVALUATION = {"step": 3, "epoch": 1.0, "evaluation": "val", "values": {"top1": 0.5, "nll": None}}


def write(folder: Path, *lines: bytes) -> Path:
    path = folder / metrics.FILE
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"step": 3, "lo', "not JSON"),
        (b'{"step": 3, "loss": 1.5}{"step": 6, "loss": 1.5}', "not JSON"),
        (b'{"step": 3, "l\xefss": 1.5}', "not UTF-8"),
        (b"[3, 1.5]", "not a JSON object"),
        (b"3", "not a JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"stdp": 3, "loss": 1.5}', "no step"),
        (b'{"step": "3", "loss": 1.5}', "step is str, expected int"),
        (b'{"step": true, "loss": 1.5}', "step is bool, expected int"),
        (b'{"step": 3, "epoch": 1}', "no loss"),
        (b'{"step": 3, "loss": NaN}', "loss is float, expected int or float or null"),
        (json.dumps(ROW | {"timing": {}}).encode(), "no images_per_s"),
        (json.dumps(ROW | {"parts": {"masked": "a"}}).encode(), "parts holds no number at masked"),
        (json.dumps(EVALUATION | {"values": [1]}).encode(), "values is list, expected dict"),
        (json.dumps(EVALUATION | {"values": {"top1": []}}).encode(), "values holds no number at top1"),
    ],
)
def test_a_bad_row_is_left_out_and_named(line: bytes, why: str, tmp_path: Path) -> None:
    good = [json.dumps(ROW).encode(), json.dumps(EVALUATION).encode()]
    path = write(tmp_path, good[0], line, b"", good[1])
    assert metrics.read(tmp_path) == [ROW, EVALUATION]
    assert metrics.damage(tmp_path) == f"{path}: 1 of 3 lines are damaged and left out: line 2 ({why})"


def test_many_bad_rows_are_counted_and_the_first_three_named(tmp_path: Path) -> None:
    path = write(tmp_path, *[b"x"] * 7)
    named = ", ".join(f"line {number} (not JSON)" for number in (1, 2, 3))
    assert left_out(path) == f"{path}: 7 of 7 lines are damaged and left out: {named} and 4 more"


def test_a_file_without_damage_or_no_file_has_no_note(tmp_path: Path) -> None:
    assert left_out(tmp_path / "absent") is None
    assert read_lines(tmp_path / "absent") == []
    write(tmp_path, json.dumps(ROW).encode())
    assert metrics.damage(tmp_path) is None


def test_a_folder_in_place_of_the_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / events.FILE).mkdir()
    with pytest.raises(InputError, match=r"cannot read .*events\.jsonl: Is a directory"):
        events.read(tmp_path)


def test_a_row_after_one_cut_short_begins_a_new_line(tmp_path: Path) -> None:
    path = tmp_path / events.FILE
    path.write_bytes(b'{"time": 1, "eve')
    append_line(path, {"time": 2, "event": "resumed"})
    assert events.read(tmp_path) == [{"time": 2, "event": "resumed"}]
    assert events.damage(tmp_path) == f"{path}: 1 of 2 lines are damaged and left out: line 1 (not JSON)"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"event": "done"}, "no time"),
        ({"time": 1.5, "event": 3}, "event is int, expected str"),
        ({"time": 1.5, "event": "done", "rank": 0, "node": "n1"}, "no step"),
        ({"time": 1.5, "event": "failed", "rank": 0, "error": "x"}, "no node"),
        ({"time": 1.5, "event": "decoding", "backend": []}, "backend is list, expected str"),
        ({"time": 1.5, "event": "done", "rank": 0, "node": "n1", "step": 3}, None),
    ],
)
def test_an_event_needs_what_its_readers_show(row: dict, why: str | None) -> None:
    assert events.check_row(row) == why


def test_a_flipped_bit_costs_at_most_the_rows_that_it_touches(tmp_path: Path) -> None:
    rows = [ROW | {"step": step} for step in range(3, 60, 3)] + [EVALUATION]
    whole = "".join(json.dumps(row) + "\n" for row in rows).encode()
    random = np.random.default_rng(0)
    for _ in range(400):
        data, at, bit = bytearray(whole), random.integers(len(whole)), random.integers(8)
        data[at] ^= 1 << bit
        (tmp_path / metrics.FILE).write_bytes(data)
        kept = metrics.read(tmp_path)
        assert len([row for row in rows if row in kept]) >= len(rows) - 2  # a line break that goes takes two rows
        metrics.format_scores(metrics.latest_scores(kept))
        assert len(kept) in (len(rows), len(rows) - 1, len(rows) - 2)
        assert (metrics.damage(tmp_path) is None) == (len(kept) == len(rows))
