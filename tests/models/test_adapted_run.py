"""A run that adapts few parameters: what it says, keeps, starts and exports, and that judging it needs nothing else."""

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import train
from models.checkpoint import save_load
from models.encoder.lora import lora_layers, merged_state
from models.evaluate.few_shot_protocols.features import FeatureExtractor
from models.export import __main__ as export
from models.export.export_format import as_input, images_like
from models.load import load_run
from models.records import events
from tests.conftest import DECODER, TINY, same, weights, without_report

LORA = ["--encoder.adapt=lora", "--encoder.lora-rank=4", "--encoder.lora-alpha=8"]


@pytest.fixture(scope="module")
def adapted(digits, tmp_path_factory, trained) -> Path:
    """A run of Semi-MAE by factors of low rank from a run of MAE."""
    folder = tmp_path_factory.mktemp("adapted")
    argv = ["train.py", "semi_mae:digits", *TINY, *DECODER, *LORA, f"--data.root={digits}", f"--run.folder={folder}",
            f"--run.start={trained('mae:digits')}", "--method.pseudo.threshold=0.108"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        without_report(patch)
        assert train.main() == 0
    return folder


def test_it_says_how_many_parameters_train_of_how_many(adapted):
    method = load_run(adapted).method
    held = [p for name, p in method.named_parameters() if not name.startswith("ema.")]
    (began,) = [row for row in events.read(adapted) if row["event"] == "started"]
    assert began["parameters"] == sum(p.numel() for p in held)
    assert began["trained"] == sum(p.numel() for p in held if p.requires_grad)
    factors = 2 * 4 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32))
    decoder = sum(p.numel() for p in method.branch.parameters())
    assert began["trained"] == factors + 64 + 330 + decoder  # two blocks; final norm, classifier


def test_its_checkpoint_is_whole_and_has_moments_of_what_trains_alone(adapted, trained):
    state, start = save_load.load(adapted / "last.pt"), weights(trained("mae:digits"))
    method = load_run(adapted).method
    learning = [p for p in method.parameters() if p.requires_grad]
    assert len(state["optimiser"]["state"]) == len(learning)
    frozen = {name for name in start if name.startswith("encoder.") and ".norm." not in name}
    for prefix in ("encoder.", "ema.module."):
        held = {name: state["method"][name.replace("encoder.", prefix)] for name in frozen}
        assert same(held, {name: start[name] for name in frozen})
    assert all(state["method"][f"{name}"].abs().max() > 0 for name in state["method"] if name.endswith("lora_B"))


def test_its_average_follows_the_factors_and_is_what_is_judged(adapted):
    loaded = load_run(adapted)
    pairs = zip(lora_layers(loaded.method.encoder), lora_layers(loaded.method.ema.module), strict=True)
    assert all(not torch.equal(raw.lora_B, average.lora_B) for raw, average in pairs)
    shown = images_like(loaded)
    judged = loaded.method.logits(shown)
    with loaded.method.raw_weights():
        assert not torch.equal(loaded.method.logits(shown), judged)


@pytest.mark.parametrize("to", ["timm", "safetensors"])
def test_exports_hold_the_merged_weights_and_give_the_same_scores_bit_for_bit(
    adapted, to, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["export", str(adapted), "--to", to, "--out", str(tmp_path / "home")])
    export.main()
    if to == "timm":
        assert "bitwise equal outputs" in capsys.readouterr().out
    loaded = load_run(adapted)
    held = {name.removeprefix("ema.module."): tensor for name, tensor in weights(adapted).items() if "ema" in name}
    expected, merged = merged_state(held, 8 / 4)
    assert merged == 8
    found = load_file(tmp_path / "home" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    if to == "timm":
        theirs = timm.create_model(f"local-dir:{tmp_path / 'home'}", pretrained=True).eval()
        shown = images_like(loaded)
        with torch.inference_mode():
            assert torch.equal(theirs(as_input(loaded, shown)), loaded.method.logits(shown))


@pytest.mark.parametrize("flags", [[], LORA], ids=["full", "LoRA again"])
def test_a_run_that_starts_from_it_begins_with_the_merged_weights(adapted, flags, tiny, tmp_path, capsys):
    start = [f"--run.start={adapted}", "--optim.lr=0", "--run.stop-step=1"]
    assert tiny("supervised:digits", tmp_path, *start, *flags) == 75
    said = capsys.readouterr().out
    assert "its average, LoRA merged into 8 weights" in said
    assert "lora" not in said.partition("new: ")[2].partition("\n")[0]
    held = {name.removeprefix("ema.module."): tensor for name, tensor in weights(adapted).items() if "ema" in name}
    expected = merged_state(held, 8 / 4)[0]
    found = {name.removeprefix("encoder."): tensor for name, tensor in weights(tmp_path).items() if "encoder." in name}
    assert same(expected, {name: found[name] for name in expected})
    assert len(found) == len(expected) + (16 if flags else 0)


def test_features_of_it_learn_as_plain_weights(adapted):
    loaded = load_run(adapted)
    extractor = FeatureExtractor(loaded.method, loaded.recipe)
    assert next(lora_layers(extractor), None) is None
    shown = images_like(loaded)
    scores = extractor.encoder.head  # an identity: what the classifier reads
    assert isinstance(scores, torch.nn.Identity)
    with torch.no_grad():
        head = loaded.method.eval_encoder.head
        assert torch.equal(head(extractor.eval()(shown)), loaded.method.logits(shown))


def test_it_carries_on_to_the_bit_in_micro_batches_with_layer_decay(trained, tiny, tmp_path):
    flags = [*LORA, f"--run.start={trained('mae:digits')}", "--optim.layer-decay=0.75", "--run.device-images=8",
             "--encoder.drop-path=0.2", "--optim.weight-decay=0.3"]  # fmt: skip
    assert tiny("fixmatch:digits", tmp_path / "parts", *flags, "--run.stop-step=5") == 75
    assert tiny("fixmatch:digits", tmp_path / "parts", *flags) == 0
    assert tiny("fixmatch:digits", tmp_path / "whole", *flags) == 0
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    rates = {group["lr_scale"] for group in save_load.load(tmp_path / "whole" / "last.pt")["optimiser"]["param_groups"]}
    assert rates == {1.0, 0.75, 0.75**2}


def test_frozen_weights_that_were_never_trained_are_pointed_out(tiny, tmp_path, capsys):
    assert tiny("supervised:digits", tmp_path, *LORA, "--run.stop-step=1") == 75
    said = capsys.readouterr().out
    assert "trained: LoRA of rank 4 on 8 weights, and the classifier, 4,490 of 32,042 parameters of the encoder" in said
    assert "these settings are for a trained encoder, and this run starts from none (--run.start)" in said
    assert tiny("mae:digits", tmp_path / "mae", "--encoder.adapt=head", "--run.stop-step=1") == 75
    assert "trained: the final norm alone, 64 of " in capsys.readouterr().out
    assert tiny("mae:digits", tmp_path / "full", "--run.stop-step=1") == 75
    assert "trained:" not in capsys.readouterr().out
