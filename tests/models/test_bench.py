"""The benchmark runs, counts honestly and refuses nonsense."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.bench import Options, check, draw_step, main, measure, report, where
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


def test_a_measurement_holds_every_variant_and_its_ratios():
    found = measure(TINY, 1)
    assert set(found.seconds) == set(found.gflops) == {"packed", "usb", "separate"}
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert found.fewer_flops_than["usb"] == found.gflops["usb"] / found.gflops["packed"] > 1
    text = report(TINY, found)
    assert "decoder 1 x 32" in text
    assert text.count("packed is") == 2
    assert where(TINY)["torch"] == torch.__version__


def test_as_many_images_pass_as_the_rate_says():
    assert draw_step(TINY, 16, "cpu").passed.sum() == 2
    assert draw_step(Options(pass_rate=0.0, image_size=32), 16, "cpu").passed.sum() == 0


def test_rates_outside_their_range_and_absent_devices_are_refused():
    check(TINY)
    with pytest.raises(InputError, match=r"got 1\.5, 0\.75, 5"):
        check(Options(pass_rate=1.5))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="use --device cpu"):
            check(Options(device="cuda"))


def test_help_names_the_command_and_no_path(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["/somewhere/models/bench.py", "--help"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().out
    assert "python -m models.bench" in said
    assert "/somewhere" not in said


@pytest.mark.slow
def test_the_command_prints_json():
    words = "--model vit_tiny_patch16_224 --image-size 32 --patch 8 --decoder-depth 1 --rounds 1 --unlabelled 4 --json"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "models.bench", *words.split(), "--device", "cpu"]
    printed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=300).stdout
    found = json.loads(printed)
    assert found["measurements"][0]["decoder_depth"] == 1
    assert found["where"]["clock"] == "process time"
