"""Runs whose encoder is read from the file that they start from."""

import json
import sys

import pytest
import torch

import train
from models.config.resolve import resolve
from models.encoder.vit import FullImages, encode
from models.load import load_run
from pipeline.errors import InputError
from tests.conftest import same, without_report
from tests.models.pretrained import released_files as released

FLAGS = ["--data.size=32", "--data.batch=8", "--optim.epochs=2", "--optim.epoch-unit=step", "--optim.warmup-epochs=0",
         "--optim.labels-only-epochs=0", "--run.device=cpu", "--data.threads=1"]  # fmt: skip


def ran(monkeypatch, recipe, folder, digits, start, *flags):
    argv = ["train.py", recipe, *FLAGS, f"--data.root={digits}", f"--run.folder={folder}", "--encoder.name=auto",
            f"--run.start={start}", *flags]  # fmt: skip
    monkeypatch.setattr(sys, "argv", argv)
    without_report(monkeypatch)
    return train.main()


@pytest.mark.parametrize(
    ("recipe", "make"),
    [
        ("semi_mae:digits", released.dinov2_registers),
        ("fixmatch:digits", released.hf_siglip),
        ("supervised:digits", released.open_clip),
        ("mae:digits", released.ijepa),
        ("finetune:digits", released.beit),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_run_starts_from_a_format_and_its_checkpoint_needs_the_file_no_more(
    digits, tmp_path, monkeypatch, capsys, recipe, make
):
    (tmp_path / "file").mkdir()
    made, folder = make(tmp_path / "file"), tmp_path / "run"
    assert ran(monkeypatch, recipe, folder, digits, made.start) == 0
    said = capsys.readouterr().out
    assert f"encoder of {made.start}" in said
    assert "left out" in said or "new: " in said
    saved = json.loads((folder / "recipe.json").read_text())["encoder"]
    assert (saved["name"], saved["width"], saved["heads"], saved["patch"]) == (None, 128, 2, 8)
    loaded = load_run(folder)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    (tmp_path / "file").rename(tmp_path / "elsewhere")
    assert same(load_run(folder).method.state_dict(), loaded.method.state_dict())
    with torch.inference_mode():
        (tokens,) = encode(loaded.method.eval_encoder, [FullImages(images)])
    assert tokens.isfinite().all()


def test_the_same_command_carries_on_and_another_file_is_another_encoder(digits, tmp_path, monkeypatch, capsys):
    made, folder = released.dinov2(tmp_path), tmp_path / "run"
    assert ran(monkeypatch, "supervised:digits", folder, digits, made.start, "--run.stop-step=1") == 75
    assert ran(monkeypatch, "supervised:digits", folder, digits, made.start) == 0
    assert ran(monkeypatch, "supervised:digits", folder, digits, made.start) == 0
    assert "finished" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    other = released.dinov2_registers(tmp_path / "other")
    with pytest.raises(InputError, match=r"was begun with encoder\.\w+ "):
        ran(monkeypatch, "supervised:digits", folder, digits, other.start)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], r"encoder.name is auto, which is the encoder of run.start, and there is none; add --run.start"),
        (["--run.start=x", "--encoder.depth=3"], r"encoder.depth is 3, and encoder.name auto reads it from run.start"),
        (["--run.start=x", "--encoder.registers=3"], r"encoder.registers is 3, and encoder.name auto reads it"),
    ],
)
def test_auto_needs_a_start_and_takes_no_field_that_the_file_tells(flags, said):
    with pytest.raises(InputError, match=said):
        resolve("semi_mae:digits", ["--encoder.name=auto", *flags])


def test_fields_of_a_size_are_refused_beside_a_name_and_build_what_they_say():
    named = [
        "--encoder.name=vit_small_patch16_224",
        *(f"--encoder.{name}=None" for name in ("width", "depth", "heads")),
    ]
    with pytest.raises(InputError, match=r"encoder.act is gelu_tanh, and encoder.name vit_small\S+ brings its own"):
        resolve("supervised:digits", [*named, "--encoder.act=gelu_tanh"])
    assert resolve("supervised:digits", ["--encoder.registers=2"]).encoder.registers == 2
