"""Masked autoencoders of others predict here what they predict in transformers, and in the run that made them."""

import copy
import json
import re
import shutil
import sys
from argparse import Namespace

import pytest
import torch

from models.encoder.patches import IMAGENET, Normalisation, as_normalised, hidden_from_visible
from models.evaluate import __main__ as evaluate
from models.evaluate.evaluation_log import read_evaluations
from models.export import __main__ as export
from models.load import load_run
from models.pretrained.masked_model import Assumed, load_masked_model
from pipeline.errors import InputError
from tests.models.pretrained.test_branch import made, maes_names

transformers = pytest.importorskip("transformers")

CPU, SIDE, PATCH = torch.device("cpu"), 32, 8
L = (SIDE // PATCH) ** 2
HEADS = Assumed(heads=4, decoder_heads=4)


@pytest.fixture(scope="module")
def theirs():
    """Hugging Face's ViTMAEForPreTraining, of which every size differs from the others, with weights worth adding."""
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=6, intermediate_size=192, image_size=SIDE,
        patch_size=PATCH, decoder_hidden_size=24, decoder_num_hidden_layers=2, decoder_num_attention_heads=3,
        decoder_intermediate_size=96, layer_norm_eps=1e-3,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(config).eval()
    model.vit.embeddings.initialize_weights()  # transformers 5.23 leaves both tables of positions zero
    model.decoder.initialize_weights(L)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position" not in name and "pos_embed" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def pixels(side=SIDE):
    return torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def compared(theirs, loaded, normalisation=IMAGENET):
    """Their predictions of hidden patches, and ours, of the same images and masks: two of [3, M, P]."""
    noise = torch.rand(3, L, generator=torch.Generator().manual_seed(2))
    visible = noise.argsort(1)[:, : L // 4].sort(1).values
    hidden = hidden_from_visible(visible, L)
    with torch.inference_mode():
        found = theirs(as_normalised(pixels(), normalisation), noise=noise).logits
    ours = loaded.method.branch.predict(loaded.method.encoder, pixels(), visible)
    return found.gather(1, hidden[..., None].expand(-1, -1, found.shape[2])), ours


def test_a_hugging_face_folder_predicts_what_transformers_does(theirs, folder):
    loaded = load_masked_model(str(folder), CPU)
    found, ours = compared(theirs, loaded)
    assert found.std() > 0.5
    assert (found - ours).abs().max() < 1e-5
    assert "encoder of 3 blocks of width 48 with 6 heads, patches of 8 pixels, images of 32" in loaded.origin
    assert "decoder of 2 blocks of width 24 with 3 heads; it predicts pixel" in loaded.origin
    assert "assumed" not in loaded.origin
    assert "MAE's for" not in loaded.origin


def test_an_older_folder_holds_a_pickle(theirs, folder):
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found, ours = compared(theirs, load_masked_model(str(folder), CPU))
    assert (found - ours).abs().max() < 1e-5


def test_a_folder_says_how_its_images_are_normalised_and_what_it_predicts(theirs, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"norm_pix_loss": True}))
    half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(half))
    loaded = load_masked_model(str(folder), CPU)
    found, ours = compared(theirs, loaded, Normalisation((0.5, 0.5, 0.5), (0.25, 0.5, 0.5)))
    assert (found - ours).abs().max() < 1e-5
    assert loaded.method.branch.settings.target == "norm_pix"
    assert loaded.method.branch.target.normalise
    with pytest.raises(InputError, match="says that it predicts norm_pix, got --target pixel; drop the flag"):
        load_masked_model(str(folder), CPU, Assumed(target="pixel"))


def test_positions_that_are_no_sines_are_the_decoders_all_the_same(theirs, tmp_path):
    other = copy.deepcopy(theirs)
    with torch.no_grad():
        other.decoder.decoder_pos_embed[:, 1:] = torch.randn(1, L, 24)
        other.vit.embeddings.position_embeddings.normal_()
    other.save_pretrained(tmp_path / "hf")
    found, ours = compared(other, load_masked_model(str(tmp_path / "hf"), CPU))
    assert (found - ours).abs().max() < 1e-5


def of_mae(method, path, **more):
    """A file as MAE's trainer writes it."""
    torch.save({"model": maes_names(method), **more}, path)
    return path


def predictions(method):
    visible = torch.tensor([[0, 3, 5, 6], [1, 2, 9, 15], [4, 8, 11, 12]])
    return method.branch.predict(method.encoder, pixels(16), visible)


def test_maes_visualisation_weights_predict_what_their_run_does(tmp_path, digits):
    _, method = made("mae:digits", digits, 0)
    heads = Assumed(heads=method.encoder.blocks[0].attn.num_heads, decoder_heads=method.branch.settings.heads)
    loaded = load_masked_model(str(of_mae(method, tmp_path / "mae_visualize_vit_small.pth")), CPU, heads)
    assert torch.equal(predictions(loaded.method), predictions(method))
    assert "it predicts pixel (assumed, as it does not say; --target)" in loaded.origin
    assert loaded.path.name == loaded.recipe.name == "mae_visualize_vit_small.pth"


@pytest.mark.parametrize(("args", "target"), [
    (Namespace(norm_pix_loss=True, model="mae_vit_base_patch16"), "norm_pix"),
    (Namespace(norm_pix_loss=False), "pixel"),
])  # fmt: skip
def test_a_checkpoint_of_maes_trainer_says_what_it_predicts(tmp_path, digits, args, target):
    _, method = made("mae:digits", digits, 0)
    path = of_mae(method, tmp_path / "checkpoint-799.pth", args=args, epoch=799)
    loaded = load_masked_model(str(path), CPU, HEADS)
    assert loaded.method.branch.settings.target == target
    assert "assumed" not in loaded.origin


def test_maes_own_sizes_need_no_heads(tmp_path, digits):
    wide = ["--encoder.width=768", "--encoder.depth=1", "--encoder.heads=12"]
    wide += ["--method.reconstruct.width=512", "--method.reconstruct.heads=16", "--method.reconstruct.depth=1"]
    _, method = made("mae:digits", digits, 0, *wide)
    loaded = load_masked_model(str(of_mae(method, tmp_path / "mae.pth")), CPU)
    assert torch.equal(predictions(loaded.method), predictions(method))
    assert "12 heads (MAE's for this width; --heads)" in loaded.origin
    assert "16 heads (MAE's for this width; --decoder-heads)" in loaded.origin


WRONG = {
    "an encoder alone": ({"decoder_embed.weight": None}, "has no decoder_embed.weight, so no decoder"),
    "no class token": ({"cls_token": None}, "has no cls_token, and MAE's encoder is a plain ViT"),
    "layer scale": ({"blocks.0.ls1.gamma": torch.ones(64)}, "has blocks.0.ls1.gamma of shape [64], and MAE's"),
    "an oblong grid": ({"pos_embed": torch.ones(1, 13, 64)}, "a class token and a square grid, got [1, 13, 64]"),
    "a wider block": ({"blocks.1.mlp.fc1.weight": torch.ones(100, 64)}, "of shape [256, 64], got [100, 64]"),
    "another decoder": ({"decoder_pred.bias": torch.ones(5)}, "masked branch not taken, as this run has"),
    "a class token with a position": ({"decoder_pos_embed": torch.ones(1, 17, 128)}, "[1, 17, 128] with others"),
    "a table of one dimension": ({"decoder_pos_embed": torch.zeros(5)}, "class token, got [5]"),
    "an empty decoder": (
        {"decoder_embed.weight": torch.ones(0, 64)},
        "decoder_embed.weight of 2 dimensions, got [0, 64]",
    ),
    "positions of another grid": ({"decoder_pos_embed": torch.zeros(1, 26, 128)}, "class token, got [1, 26, 128]"),
    "no positions of the decoder": ({"decoder_pos_embed": None}, "has no decoder_pos_embed, so no decoder"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_files_of_another_architecture_are_refused_in_a_line(tmp_path, digits, kind):
    change, said = WRONG[kind]
    wide = ["--encoder.width=64", "--encoder.heads=4", "--method.reconstruct.width=128"]
    _, method = made("mae:digits", digits, 0, *wide)
    held = {name: tensor for name, tensor in (maes_names(method) | change).items() if tensor is not None}
    torch.save({"model": held}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=re.escape(said)) as refused:
        load_masked_model(str(tmp_path / "x.pth"), CPU, HEADS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("changed", "said"), [
    ({"num_attention_heads": 5}, "expected heads that divide a width of 48, got 5"),
    ({"num_attention_heads": "6"}, "its config says num_attention_heads '6', expected 1 or more"),
    ({"decoder_num_attention_heads": -3}, "its config says decoder_num_attention_heads -3, expected 1 or more"),
    ({"hidden_act": "relu"}, "its config says hidden_act relu, and MAE's blocks have gelu"),
    ({"layer_norm_eps": "small"}, "expected layer_norm_eps from 0 to below 1 in its config, got 'small'"),
    (None, "is not JSON"),
])  # fmt: skip
def test_a_config_that_says_what_cannot_be_is_refused_in_a_line(folder, changed, said):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text("{" if changed is None else json.dumps(config | changed))
    with pytest.raises(InputError, match=said) as refused:
        load_masked_model(str(folder), CPU)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("shown", [{"image_mean": 0.5, "image_std": [1, 1, 1]},
                                   {"image_mean": [0, 0, 0], "image_std": [1, 1, 0]}])  # fmt: skip
def test_a_normalisation_that_is_none_is_refused_in_a_line(folder, shown):
    (folder / "preprocessor_config.json").write_text(json.dumps(shown))
    with pytest.raises(InputError, match="expected three numbers each, image_std above 0"):
        load_masked_model(str(folder), CPU)


def test_heads_that_nothing_tells_and_flags_that_contradict_are_said(tmp_path, digits, folder):
    _, method = made("mae:digits", digits, 0)
    path = str(of_mae(method, tmp_path / "mae.pth"))
    with pytest.raises(InputError, match="into how many heads a width of 32 is cut; give --heads"):
        load_masked_model(path, CPU)
    with pytest.raises(InputError, match="is cut; give --decoder-heads"):
        load_masked_model(path, CPU, Assumed(heads=2))
    with pytest.raises(InputError, match="says num_attention_heads 6, got --heads 4; drop the flag"):
        load_masked_model(str(folder), CPU, Assumed(heads=4))


def evaluated(path, *flags):
    evaluate.measure("reconstruct", str(path), [str(flag) for flag in flags])
    folder = path if path.is_dir() else path.parent
    return read_evaluations(folder)[-1]


def test_a_released_file_is_measured_as_the_run_that_it_was_made_of(trained, tmp_path, digits, capsys, monkeypatch):
    loaded = load_run(trained("mae:digits"))
    (tmp_path / "run").mkdir()
    shutil.copy(loaded.path, tmp_path / "run")
    asked = ["--ratios", 0.5, "--measured", 20, "--pictures", 2, "--device", "cpu"]
    values = evaluated(tmp_path / "run", *asked)["values"]
    heads = ["--heads", loaded.recipe.encoder.heads, "--decoder-heads", loaded.recipe.method.reconstruct.heads]
    path = of_mae(loaded.method, tmp_path / "mae_visualize.pth")
    # the evaluation view of digits cuts nothing off; MAE's does
    monkeypatch.setattr("models.pretrained.masked_model.in1k.mae_data", lambda: loaded.recipe.data)
    row = evaluated(path, *asked, *heads, "--data.root", digits)
    assert row["values"] == pytest.approx(values, rel=1e-6)
    assert (row["checkpoint"], row["step"]) == ("mae_visualize.pth", 0)
    said = capsys.readouterr().out
    assert "it predicts pixel (assumed" in said
    page = (tmp_path / "evaluate-reconstruct.html").read_text()
    assert "it predicts pixel (assumed" in page
    assert "reconstruct of mae_visualize.pth</" in page
    monkeypatch.setattr(sys, "argv", ["export", str(trained("mae:digits")), "--to", "hf-vitmae",
                                      "--out", str(tmp_path / "exported")])  # fmt: skip
    export.main()
    exported = evaluated(tmp_path / "exported", *asked, "--data.root", digits)
    assert exported["values"] == pytest.approx(values, rel=1e-4)


def test_what_is_missing_or_too_much_is_said(trained, tmp_path, digits):
    _, method = made("mae:digits", digits, 0)
    path = of_mae(method, tmp_path / "mae.pth")
    with pytest.raises(InputError, match=r"names no images; give --data\.root FOLDER"):
        evaluated(path)
    with pytest.raises(InputError, match="is a run, whose recipe says target and heads; drop --target"):
        evaluated(trained("mae:digits"), "--target", "pixel")
    with pytest.raises(InputError, match="expected a run, or a file or folder of MAE or ViTMAE weights; found none"):
        evaluated(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"expected a run folder with last\.pt"):
        evaluated(tmp_path)
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="is cut short, or holds more than tensors"):
        evaluated(tmp_path / "cut.pth", "--data.root", digits)
    with pytest.raises(InputError, match="--heads is 0, expected at least 1"):
        evaluated(path, "--heads", 0)
