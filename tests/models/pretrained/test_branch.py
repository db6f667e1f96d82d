"""Masked pre-training goes on with its decoder: the loss of a started run is that of the run it starts from."""

import json
import sys
from dataclasses import asdict

import pytest
import torch

import train
from models.checkpoint import save_load
from models.config.resolve import resolve
from models.encoder.positions import sincos_2d
from models.export import __main__ as export
from models.factory import method_class
from models.load import load_run
from models.method import StepInfo
from models.pretrained import load_encoder
from pipeline.batch import Unlabelled
from pipeline.errors import InputError
from tests.conftest import DECODER, TINY
from tests.models.config.test_catalogue import two_batches

ENCODER = TINY[:3]
MASKED = ["mae:digits", "simmim:digits", "crossmae:digits", "lomar:digits", "supmae:digits", "semi_mae:digits"]


def made(name, digits, seed, *flags):
    torch.manual_seed(seed)
    recipe = resolve(name, [*ENCODER, f"--data.root={digits}", "--data.batch=16", *flags])
    method = method_class(recipe)(recipe, 10).eval()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return recipe, method


def masked_loss(recipe, method):
    torch.manual_seed(0)
    batch = two_batches(recipe, method)[-1]
    labelled = batch.labelled
    images = batch.unlabelled or Unlabelled(labelled.ids, labelled.images, visible=labelled.visible)  # SupMAE's
    return method.branch.loss(method.encoder, images, 3)


def saved(folder, recipe, method):
    state = {"method": method.state_dict(), "recipe": asdict(recipe) | {"name": recipe.name}, "step": 300}
    save_load.save(folder, state)
    return folder / "last.pt"


def maes_names(method):
    """The encoder and decoder of a method as MAE's released visualisation weights name them."""
    ours = method.state_dict()
    held = {n.removeprefix("encoder."): t for n, t in ours.items() if n.startswith("encoder.")}
    held["mask_token"] = ours["branch.decoder.mask_token"]
    for kind in ("weight", "bias"):
        for theirs, mine in (("decoder_embed", "embed"), ("decoder_norm", "norm"), ("decoder_pred", "predict")):
            held[f"{theirs}.{kind}"] = ours[f"branch.decoder.{mine}.{kind}"]
    for name, tensor in ours.items():
        if name.startswith("branch.decoder.blocks."):
            held["decoder_blocks." + name.removeprefix("branch.decoder.blocks.")] = tensor
    width = held["mask_token"].shape[-1]
    held["decoder_pos_embed"] = torch.cat([torch.zeros(1, width), sincos_2d(width, (4, 4)).float()])[None]
    return held


@pytest.mark.parametrize("name", MASKED)
def test_a_started_run_has_the_masked_loss_of_the_run_it_starts_from(tmp_path, digits, name):
    no_average = ["--optim.ema-decay=None", "--method.pseudo.teacher=self"] if name.startswith("semi") else []
    recipe, before = made(name, digits, 0, *no_average)
    _, after = made(name, digits, 1, *no_average)
    expected = masked_loss(recipe, before)
    assert masked_loss(recipe, after) != expected
    said = load_encoder(after, saved(tmp_path, recipe, before))
    assert torch.equal(masked_loss(recipe, after), expected)
    assert f"masked branch taken, {len(before.branch.state_dict())} tensors" in said
    assert "branch.*" not in said
    if name == "mae:digits":
        assert torch.equal(after(two_batches(recipe, after)[-1], StepInfo(3, labels_only=False)).total, expected)


@pytest.mark.parametrize("wrapper", ["", "module._orig_mod."])
def test_maes_visualisation_weights_bring_their_decoder(tmp_path, digits, wrapper):
    recipe, before = made("mae:digits", digits, 0)
    _, after = made("mae:digits", digits, 1)
    torch.save({"model": {f"{wrapper}{n}": t for n, t in maes_names(before).items()}}, tmp_path / "mae.pth")
    said = load_encoder(after, tmp_path / "mae.pth")
    assert torch.equal(masked_loss(recipe, after), masked_loss(recipe, before))
    target = recipe.method.reconstruct.target
    assert f"masked branch taken, {len(before.branch.state_dict())} tensors, which the source does not say to" in said
    assert said.endswith(f"predict {target}; new: none")


def test_an_exported_vitmae_folder_continues_as_its_run_does(trained, tmp_path, digits, monkeypatch, capsys):
    folder, home = trained("mae:digits"), tmp_path / "home"
    monkeypatch.setattr(sys, "argv", ["export", str(folder), "--to", "hf-vitmae", "--out", str(home)])
    export.main()
    loaded = load_run(folder)
    _, after = made("mae:digits", digits, 1, *DECODER)
    said = load_encoder(after, home)
    assert torch.equal(masked_loss(loaded.recipe, after), masked_loss(loaded.recipe, loaded.method))
    assert "masked branch taken" in said
    config = json.loads((home / "config.json").read_text())
    (home / "config.json").write_text(json.dumps(config | {"norm_pix_loss": not config["norm_pix_loss"]}))
    ours = loaded.recipe.method.reconstruct.target
    other = {"pixel": "norm_pix", "norm_pix": "pixel"}[ours]
    assert f"trained to predict {other}, here {ours}" in load_encoder(after, home)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"decoder_pos_embed": torch.ones(1, 17, 128)}, "holds no sines of a square grid"),
        ({"decoder_pred.bias": torch.ones(5)}, r"predict.bias of shape [48], the source [5]"),
        ({"decoder_blocks.9.norm1.bias": torch.ones(5)}, "the source has decoder.blocks.9.norm1.bias of shape [5]"),
        ({"decoder_norm.bias": None}, "decoder.norm.bias of shape [128], the source nothing"),
    ],
)
def test_a_decoder_of_another_kind_is_left_out_whole_and_the_line_says_why(tmp_path, digits, change, why):
    _, before = made("mae:digits", digits, 0, "--method.reconstruct.width=128")
    _, after = made("mae:digits", digits, 1, "--method.reconstruct.width=128")
    fresh = {name: tensor.clone() for name, tensor in after.branch.state_dict().items()}
    held = {name: tensor for name, tensor in (maes_names(before) | change).items() if tensor is not None}
    torch.save({"model": held}, tmp_path / "mae.pth")
    said = load_encoder(after, tmp_path / "mae.pth")
    assert "masked branch not taken, as" in said
    assert why in said
    assert "decoder_blocks.*" in said.split("left out: ")[1]
    assert all(torch.equal(fresh[name], tensor) for name, tensor in after.branch.state_dict().items())
    assert torch.equal(after.encoder.cls_token, before.encoder.cls_token)


def test_sines_of_another_grid_are_this_grids(tmp_path, digits):
    _, before = made("mae:digits", digits, 0)
    _, after = made("mae:digits", digits, 1, "--data.size=32")
    torch.save({"model": maes_names(before)}, tmp_path / "mae.pth")
    assert "masked branch taken" in load_encoder(after, tmp_path / "mae.pth")
    assert torch.equal(after.branch.decoder.embed.weight, before.branch.decoder.embed.weight)


def test_a_method_without_a_branch_leaves_the_decoder_out(tmp_path, digits):
    recipe, before = made("mae:digits", digits, 0)
    _, after = made("supervised:digits", digits, 1)
    said = load_encoder(after, saved(tmp_path, recipe, before))
    assert "masked branch" not in said
    assert f"left out: branch.* ({len(before.branch.state_dict())})" in said


def test_train_continues_masked_pre_training_and_says_so(trained, tmp_path, digits, monkeypatch, capsys):
    folder = trained("mae:digits")
    flags = [*TINY, *DECODER, f"--data.root={digits}", f"--run.folder={tmp_path / 'on'}", "--optim.epochs=4"]
    monkeypatch.setattr(sys, "argv", ["train.py", "mae:digits", *flags, f"--run.start={folder}"])
    try:
        assert train.main() == 0
    except InputError as error:
        raise AssertionError(str(error)) from error
    assert "masked branch taken" in capsys.readouterr().out.replace("\n", " ")
