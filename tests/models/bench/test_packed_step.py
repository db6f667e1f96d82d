"""The benchmark runs, counts honestly and refuses nonsense."""

import json
import runpy
from dataclasses import replace

import pytest
import torch

from models.bench import packed_step
from models.bench.packed_step import (
    Options,
    as_step,
    check,
    draw_batch,
    main,
    measure,
    passing,
    prepare,
    recipe,
    report,
)
from models.bench.timing import machine
from models.encoder.vit import encode
from models.methods import semi_mae
from pipeline.errors import InputError

TINY = Options(
    model="vit_tiny_patch16_224",
    image_size=32,
    patch=8,
    decoder_depth=(1,),
    decoder_width=32,
    decoder_heads=4,
    labelled=1,
    unlabelled=4,
    rounds=2,
    device="cpu",
)


@pytest.fixture(scope="module")
def found():
    return measure(TINY, 1)


def test_a_measurement_holds_every_variant_and_its_ratios(found):
    assert set(found.seconds) == set(found.gflops) == {"semi_mae", "packed", "usb", "separate"}
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert found.gflops["semi_mae"] == found.gflops["packed"]  # what trains costs what its core alone does
    assert found.fewer_flops_than["usb"] == found.gflops["usb"] / found.gflops["semi_mae"] > 1
    text = report(TINY, found)
    assert "decoder 1 x 32" in text
    assert text.count("semi_mae is") == 3
    assert machine("cpu")["torch"] == torch.__version__


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (0.5, 2), (1.0, 4)])
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_as_many_images_pass_as_the_rate_says(rate, count, precision, monkeypatch):
    """In the method itself and in its core: the strong views that each encodes."""
    seen = []
    monkeypatch.setattr(semi_mae, "encode", lambda vit, groups: seen.append(groups[1].rows) or encode(vit, groups))
    options = replace(TINY, pass_rate=rate, precision=precision)
    prepare(options, 1, "cpu")["semi_mae"]()
    assert len(seen[0]) == count
    assert as_step(draw_batch(options, recipe(options, 1), "cpu"), passing(options)).passed.sum() == count


def test_rates_outside_their_range_and_absent_devices_are_refused():
    check(TINY)
    with pytest.raises(InputError, match=r"--pass_rate is 1\.5, expected from 0 to 1"):
        check(Options(pass_rate=1.5))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="use --device cpu"):
            check(Options(device="cuda"))


def test_help_names_the_command_and_no_path(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["/somewhere/models/bench/packed_step.py", "--help"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().out
    assert "python -m models.bench" in said
    assert "/somewhere" not in said


def test_the_command_prints_json(found, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(packed_step, "measure", lambda options, depth: asked.append((options, depth)) or found)
    words = "--model vit_tiny_patch16_224 --image-size 32 --patch 8 --decoder-depth 1 --decoder-width 32 "
    words += "--decoder-heads 4 --labelled 1 --unlabelled 4 --rounds 2 --json --device cpu"
    monkeypatch.setattr("sys.argv", ["models.bench", *words.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("models.bench", run_name="__main__")
    assert ended.value.code == 0
    assert asked == [(replace(TINY, json=True), 1)]
    printed = json.loads(capsys.readouterr().out)
    assert printed["measurements"][0]["decoder_depth"] == 1
    assert printed["where"]["clock"] == "process time"
