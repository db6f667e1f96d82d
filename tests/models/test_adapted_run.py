"""A run that adapts few parameters: what it says, keeps, starts and exports, and that judging it needs nothing else."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import train
from models.checkpoint import save_load
from models.config.resolve import resolve
from models.encoder.lora import lora_layers, merged_state
from models.evaluate.few_shot_protocols.features import FeatureExtractor
from models.export import __main__ as export
from models.export.export_format import as_input, images_like
from models.load import load_run
from models.pretrained.adapter import find_start, load_adapter
from models.pretrained.find import find_weights
from models.pretrained.judged import load_judged
from models.records import events
from models.training.preflight import check
from pipeline.errors import InputError
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


@pytest.fixture(scope="module")
def folder(adapted, tmp_path_factory) -> Path:
    """The run's adapter."""
    made = tmp_path_factory.mktemp("exported") / "adapter"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", str(adapted), "--to", "adapter", "--out", str(made)])
        export.main()
    return made


def test_an_adapter_holds_what_trains_and_gives_the_scores_of_the_run_bit_for_bit(adapted, folder, capsys):
    held, loaded = load_file(folder / "adapter.safetensors"), load_run(adapted)
    trained = {name for name, p in loaded.method.encoder.state_dict(keep_vars=True).items() if p.requires_grad}
    assert held.keys() == trained
    assert len(trained) == 16 + 4
    found = load_judged(str(folder), None)
    assert "20 adapted tensors from " in found.origin
    assert (found.recipe, found.classes, found.step) == (loaded.recipe, loaded.classes, loaded.step)
    shown = images_like(loaded)
    assert torch.equal(found.method.logits(shown), loaded.method.logits(shown))
    assert capsys.readouterr().out == f"{found.origin}\n"


def other_start(told: dict, trained_mae: Path, tmp_path: Path) -> None:
    state = save_load.load(trained_mae / "last.pt")
    state["method"]["encoder.blocks.0.mlp.fc1.bias"][3] += 1e-3
    save_load.save(tmp_path, state)
    told["start"] = str(tmp_path)


DAMAGED = {
    "other weights": (other_start, "was trained beside other weights than .* now holds"),
    "none": (lambda told, *_: told.update(start="/nowhere/last.pt"), "/nowhere/last.pt, which could not be loaded"),
    "no start": (lambda told, *_: told.pop("start"), "adapter.json: expected start, got None; export the run again"),
    "no hash": (lambda told, *_: told.update(frozen=3), "adapter.json: expected frozen, got 3; export the run again"),
    "an unknown recipe": (lambda told, *_: told["recipe"].update(name="a:b"), "its recipe cannot be restored"),
    "another rank": (
        lambda told, *_: told["recipe"]["encoder"].update(lora_rank=2),
        r"expected blocks.0.attn.qkv.lora_A of shape \[2, 32\], got \[4, 32\]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_an_adapter_whose_frozen_weights_are_lost_or_others_is_refused(folder, damage, trained, tmp_path):
    copied, (change, said) = tmp_path / "adapter", DAMAGED[damage]
    shutil.copytree(folder, copied)
    told = json.loads((copied / "adapter.json").read_text())
    change(told, trained("mae:digits"), tmp_path)
    (copied / "adapter.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=said):
        load_adapter(copied)


def test_frozen_weights_may_have_moved(folder, trained, tmp_path):
    copied, moved = tmp_path / "adapter", tmp_path / "elsewhere.pt"
    shutil.copytree(folder, copied)
    shutil.copy(trained("mae:digits") / "last.pt", moved)
    told = json.loads((copied / "adapter.json").read_text())
    (copied / "adapter.json").write_text(json.dumps(told | {"start": str(moved)}))
    assert str(moved) in load_adapter(copied).origin


def test_damaged_tensors_are_refused(folder, tmp_path):
    copied = tmp_path / "adapter"
    shutil.copytree(folder, copied)
    (copied / "adapter.safetensors").write_bytes((folder / "adapter.safetensors").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"cannot read .*adapter.safetensors"):
        load_adapter(copied)


def test_a_run_that_trained_everything_has_no_adapter(trained, tmp_path, monkeypatch):
    argv = ["export", str(trained("mae:digits")), "--to", "adapter", "--out", str(tmp_path / "home")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(InputError, match=r"no frozen weights to leave out \(encoder.adapt full\); use --to timm"):
        export.main()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "flags", "said"),
    [
        ("supervised:digits", [], r"adapts weights of no file \(run.start\), so they would be lost"),
        ("supmae:digits", ["--run.start"], "supmae:digits has a classifier beside it"),
    ],
)
def test_what_an_adapter_cannot_hold_is_refused(recipe, flags, said, trained, tiny, tmp_path, monkeypatch):
    flags = [f"--run.start={trained('mae:digits')}"] if flags else []
    assert tiny(recipe, tmp_path / "run", *LORA, *flags, "--run.stop-step=1") == 75
    argv = ["export", str(tmp_path / "run"), "--to", "adapter", "--out", str(tmp_path / "home")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(InputError, match=said):
        export.main()


@pytest.mark.parametrize("named", ["", "adapter.json", "adapter.safetensors"])
def test_the_weights_of_an_adapter_are_those_of_its_run(folder, adapted, named):
    before = torch.random.get_rng_state()
    found, expected = find_start(str(folder / named)), find_start(str(adapted))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "LoRA merged into 8 weights" in found.what
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(found.tensors[name], expected.tensors[name]) for name in expected.tensors)
    assert (found.classes, found.grid) == (expected.classes, expected.grid)


def test_a_run_from_an_adapter_is_a_run_from_its_run(folder, adapted, tiny, tmp_path, capsys):
    for name, start in (("one", folder), ("two", adapted)):
        assert tiny("supervised:digits", tmp_path / name, f"--run.start={start}", *LORA, "--run.stop-step=2") == 75
        assert "LoRA merged into 8 weights; classifier kept" in capsys.readouterr().out.replace("); cl", "; cl")
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


def test_an_adapter_that_names_itself_is_refused(folder, tmp_path):
    copied = tmp_path / "adapter"
    shutil.copytree(folder, copied)
    told = json.loads((copied / "adapter.json").read_text())
    (copied / "adapter.json").write_text(json.dumps(told | {"start": str(copied)}))
    with pytest.raises(InputError, match="is this adapter itself"):
        find_start(str(copied))


def test_a_masked_branch_is_in_no_adapter(folder):
    with pytest.raises(InputError, match=r"is an adapter, which holds no whole encoder; name its run, or what"):
        find_weights(str(folder))


def test_an_adapter_is_exported_as_merged_weights(folder, adapted, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", str(folder), "--to", "timm", "--out", str(tmp_path / "timm")])
        export.main()
    found, expected = find_weights(str(tmp_path / "timm")).tensors, find_weights(str(adapted)).tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("adapt", ["lora", "bitfit", "1", "head"])
def test_a_job_is_checked_without_its_weights(adapt, tmp_path):
    recipe = resolve("finetune:digits", [f"--encoder.adapt={adapt}", "--run.start=x", f"--run.folder={tmp_path}"])
    check(recipe, 1)
