"""The benchmark runs every case, compares rounds with their own bound, says who waits, and refuses nonsense."""

import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.bench.flops import count
from models.bench.packed_step import Options as StepOptions
from models.bench.packed_step import prepare
from pipeline.bench import __main__ as bench
from pipeline.bench import cases, peers, rounds, verdict
from pipeline.errors import InputError

TINY = {"size": 32, "rounds": 2, "images": 12, "batch": 5}
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _few_batches(monkeypatch):
    monkeypatch.setattr(cases, "LOADER_BATCHES", 3)


def test_every_case_has_a_finite_rate_and_ratio(beton):
    """The peers run in the command below: ffcv's compiled code raises when it is collected, and workers are forked."""
    before = threading.active_count()
    options = bench.Options(str(beton.path), **TINY)
    turns = bench.measure(options, beton, [])
    assert {cases.BOUND, cases.CPU_VIEWS, cases.GPU_VIEWS, cases.OVERHEAD} <= set(turns)
    for rate in map(rounds.rate, turns.values()):
        assert 0 < rate.low <= rate.median <= rate.high < math.inf
        assert 0 < rate.wall < math.inf
        assert rate.n == 2
    assert rounds.times(turns[cases.BOUND], turns[cases.BOUND]) == 1
    assert threading.active_count() == before
    lines = bench.table(turns).splitlines()
    assert len(lines) == 1 + len(turns)
    assert len(set(map(len, lines))) == 1, lines
    said = bench.summary(turns, options, verdict.Machine(2))
    assert len(said) == 2
    assert "of a core at 1,000 images/s" in said[0]
    assert json.loads(json.dumps(bench.figures(turns)))[cases.BOUND]["of_bound"] == 1


def test_cases_take_turns_and_the_first_round_is_not_counted(monkeypatch):
    clock, turns = iter(range(1000)), []
    monkeypatch.setattr(rounds, "cpu_s", lambda: float(next(clock)))
    found = {"a": lambda: turns.append("a") or 6, "b": lambda: turns.append("b") or 3}
    measured = rounds.interleaved(found, 2)
    assert {name: [turn.cpu for turn in each] for name, each in measured.items()} == {"a": [6, 6], "b": [3, 3]}
    assert turns == ["a", "b"] * 3


def test_the_time_of_an_ended_child_counts():
    before = rounds.cpu_s()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert rounds.cpu_s() - before > 0.01


def test_ratios_compare_turns_of_one_round():
    one, other = ([rounds.Turn(cpu, 1) for cpu in each] for each in ((8, 2, 20), (4, 1, 5)))
    assert rounds.times(one, other) == 2


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("size", "at least 32"), ("threads", "at least 1"), ("rounds", "at least 1"), ("images", "at least 1"),
        ("batch", "at least 1"), ("step_images_per_s", "above 0"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(field, expected, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench", "/nowhere", f"--{field}", "0"])
    with pytest.raises(InputError, match=f"^--{field} is 0, expected {expected}$"):
        bench.main()


def test_a_peer_that_is_unknown_or_missing_is_refused(monkeypatch):
    assert peers.chosen("torchvision,ffcv") == ["torchvision", "ffcv"]
    assert peers.chosen("") == []
    with pytest.raises(
        InputError, match="--against knows torchvision, ffcv, ffcv-ssl, dali, slipstream, spdl, got 'pil'"
    ):
        peers.chosen("pil")
    monkeypatch.setitem(peers.PEERS, "dali", ("nvidia_absent.dali", None))
    with pytest.raises(InputError, match=r"--against dali needs nvidia_absent.dali, which is not installed"):
        peers.chosen("dali")
    assert "dali" not in peers.chosen(None)
    assert "torchvision" in peers.chosen(None)


def test_torchvision_makes_the_views_of_its_methods(beton):
    image = Image.new("RGB", (60, 50), (10, 20, 30))
    assert tuple(peers.mae(32)(image).shape) == (3, 32, 32)
    weak, strong = peers.Two(32, normalised=False)(image)
    assert str(weak.dtype) == str(strong.dtype) == "torch.uint8"
    work = cases.Work(beton, np.arange(7), 32, 5, 1)
    assert [len(part) for part in work.batches] == [5, 2]
    assert peers.in_turn(work, peers.Two(32, normalised=True)) == 7


def test_the_fastest_share_of_the_gpus_engine_is_named_where_shares_were_measured():
    assert bench.engine({"another case": [rounds.Turn(1.0, 1.0)]}) == []
    walls = dict(zip(cases.HW_LOADS, (4000.0, 5000.0, 7000.4, 6000.0, 3000.0), strict=True))
    turns = {cases.nvjpeg_case(load): [rounds.Turn(9000.0 - wall, wall)] for load, wall in walls.items()}
    (said,) = bench.engine(turns)
    assert said.startswith("nvJPEG is fastest with --data.hw-decoder-load 0.65 (")
    assert "0: 4,000, 0.5: 5,000, 0.65: 7,000, 0.8: 6,000, 1: 3,000" in said


HERE = verdict.Machine(cores=16, gpus=2, gpu="H100")


def test_the_verdict_says_who_waits_and_for_how_many_cores():
    need = verdict.need("vit_small_patch16_224", 4000)
    said = verdict.verdict(need, gpu_views=1000, cpu_views=500, here=verdict.Machine(cores=2))
    assert "No GPU is here: one that trains vit_small_patch16_224 at 4,000 images/s (as you say)" in said
    assert "would wait 50 % of its time for its 2 core(s), which feed 2,000;" in said
    assert "needs 4.0 cores a GPU with GPU views, 8.0 with CPU views." in said
    said = verdict.verdict(need, gpu_views=1000, cpu_views=500, here=HERE)
    assert "A H100 that trains" in said
    assert "would not wait for its 8 core(s), which feed 8,000: these wait 50 % of theirs" in said
    said = verdict.verdict(need, gpu_views=1000, cpu_views=500, here=HERE, end_to_end=3000)
    assert "would wait 25 % of its time for its 8 core(s), which feed (measured) 3,000" in said


def test_an_assumed_rate_is_called_so_and_an_unknown_model_needs_a_measured_one():
    need = verdict.need("vit_base_patch16_224")
    assert "assumed, not measured" in need.origin
    assert need.images_per_s == pytest.approx(225_000 / 133.7)
    with pytest.raises(InputError, match=r"--model knows .* got 'resnet50'; for another one say --step-images-per-s"):
        verdict.need("resnet50")
    assert verdict.need("resnet50", 100).images_per_s == 100


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "vit_small_patch16_224"])
def test_the_table_of_models_holds_what_a_step_is_counted_to_cost(model):
    options = StepOptions(model=model)
    images = options.labelled + options.unlabelled
    counted = count(prepare(options, 8, "meta")["packed"]) / images / 1e9
    assert verdict.GFLOP[model] == pytest.approx(counted, abs=0.06)


@pytest.mark.slow
def test_the_command_takes_a_folder_and_measures_the_installed_peers_too(beton):
    words = ["--size", "32", "--rounds", "1", "--images", "10", "--batch", "5", "--json"]
    command = [sys.executable, "-m", "pipeline.bench", str(beton.path.parent), *words]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
    found = json.loads(printed)
    assert found["rates"]["ffcv.Loader: one crop"]["median"] > 0
    assert found["rates"]["ffcv.Loader: two crops, two decodes (FFCV-SSL)"]["median"] > 0
    assert found["rates"]["torchvision: MAE's one crop, f32, DataLoader"]["median"] > 0
    assert found["rates"][cases.BOUND]["of_bound"] == 1
    assert found["where"]["images"] == 10
    assert found["where"]["threads"] == 1
    assert len(found["summary"]) == 2
