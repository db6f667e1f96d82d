"""The benchmark runs every case, compares rounds with their own bound, and refuses nonsense."""

import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline import bench
from pipeline.errors import InputError

TINY = {"size": 32, "rounds": 2, "images": 12, "batch": 5}


def test_every_case_has_a_finite_rate_and_ratio(beton, monkeypatch):
    # ffcv's compiled code raises when it is collected; the command below runs it in a process of its own
    monkeypatch.setattr(bench.bench_peers, "_ffcv_loader", lambda *_: None)
    before = threading.active_count()
    rates = bench.measure(bench.Options(str(beton.path), **TINY), beton)
    assert {bench.BOUND, bench.CPU, bench.DEVICE, "torchvision, weak + strong"} <= set(rates)
    for rate in rates.values():
        assert 0 < rate.low <= rate.median <= rate.high < math.inf
        assert 0 < rate.ratio < math.inf
    assert rates[bench.BOUND].ratio == 1
    assert threading.active_count() == before
    lines = bench.table(rates).splitlines()
    assert len(lines) == 1 + len(rates)
    assert len(set(map(len, lines))) == 1, lines
    assert "at 2 core(s)" in bench.verdict(rates, 2)


def test_cases_take_turns_and_the_first_round_is_not_counted(monkeypatch):
    clock, turns = iter(range(1000)), []
    monkeypatch.setattr(bench.time, "process_time", lambda: float(next(clock)))
    cases = {"a": lambda: turns.append("a") or 6, "b": lambda: turns.append("b") or 3}
    assert bench.interleaved(cases, 2) == {"a": [6.0, 6.0], "b": [3.0, 3.0]}  # the clock moves 1 s between two readings
    assert turns == ["a", "b"] * 3


def test_options_out_of_range_are_refused(beton):
    with pytest.raises(InputError, match="--rounds must be 1 or more, got 0"):
        bench.measure(bench.Options(str(beton.path), rounds=0), beton)


@pytest.mark.slow
def test_the_command_prints_json_and_measures_the_installed_ffcv_too(beton):
    words = ["--size", "32", "--rounds", "1", "--images", "10", "--batch", "5", "--json"]
    command = [sys.executable, "-m", "pipeline.bench", str(beton.path), *words]
    root = Path(__file__).parents[2]
    printed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=300).stdout
    found = json.loads(printed)
    assert found["rates"]["ffcv.Loader, one crop"]["median"] > 0
    assert found["rates"][bench.BOUND]["ratio"] == 1
    assert found["where"]["images"] == 10
    assert found["where"]["threads"] == 1
