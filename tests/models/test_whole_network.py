"""A run of a classifier of timm, from its first step to what others load: stopped and resumed to the bit, started from,
exported, judged by every door, or refused in a line."""

import sys
from pathlib import Path

import pytest
import timm
import torch

import train
from models.checkpoint import save_load
from models.config.resolve import resolve
from models.evaluate.few_shot_protocols.features import FeatureExtractor
from models.evaluate.knn import check_tokens
from models.export.to_onnx import Scores
from models.export.to_timm import ToTimm
from models.export.to_vitmae import ToViTMAE
from models.factory import method_class
from models.load import load_run
from models.pretrained import load_encoder
from models.pretrained.architecture import with_encoder_of_start
from models.pretrained.judged import load_judged
from pipeline.errors import InputError
from tests.conftest import without_report

FLAGS = ["--data.batch=16", "--data.ratio=3", "--optim.epochs=4", "--optim.warmup-epochs=1", "--run.log-steps=1",
         "--optim.labels-only-epochs=1", "--run.device=cpu", "--data.test=None"]  # fmt: skip
CLASSES = 10


def run(name: str, folder: Path, digits: Path, *flags: str) -> dict:
    """Train in this process; -> the checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        argv = ["train.py", name, *FLAGS, f"--data.root={digits}", f"--run.folder={folder}", *flags]
        patch.setattr(sys, "argv", argv)
        without_report(patch)
        assert train.main() in (0, 75)
    return save_load.load(folder / "last.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits) -> Path:
    """A finished run on timm's own stem."""
    folder = tmp_path_factory.mktemp("whole")
    run("fixmatch:digits_resnet", folder, digits, "--encoder.stem=own", "--method.pseudo.threshold=0")
    return folder


@pytest.mark.parametrize("name", ["cowmix:digits_resnet", "mpl:digits_resnet"])
def test_a_run_that_stopped_and_went_on_is_the_one_that_did_not(name, tmp_path, digits, capsys):
    more = ["--method.threshold=0" if name.startswith("cowmix") else "--method.pseudo.threshold=0"]
    whole = run(name, tmp_path / "whole", digits, *more)
    run(name, tmp_path / "parts", digits, *more, "--run.stop-step=2")
    parts = run(name, tmp_path / "parts", digits, *more)
    assert whole["step"] == parts["step"] == 4
    for key, tensor in whole["method"].items():
        assert torch.equal(tensor, parts["method"][key]), key
    counters = [key for key in whole["method"] if key.endswith("num_batches_tracked")]
    assert counters
    assert all(int(whole["method"][key]) > 0 for key in counters)
    assert "batch norm (15 in test_resnet) norms each pass by its own images" in capsys.readouterr().out


def test_a_run_starts_another_and_is_found_by_auto(trained, digits):
    loaded = load_run(trained)
    recipe = resolve("supervised:digits_resnet", ["--encoder.stem", "own", "--run.start", str(trained)])
    torch.manual_seed(9)
    method = method_class(recipe)(recipe, CLASSES)
    said = load_encoder(method, trained, loaded.classes)
    assert said.endswith("new: none")
    assert "classifier kept, of the same 10 classes" in said
    held = loaded.method.eval_encoder.state_dict()
    for network in (method.encoder, method.ema.module):
        assert all(torch.equal(each, held[name]) for name, each in network.state_dict().items())
    fewer = method_class(recipe)(recipe, 3)
    assert "new: fc.weight, fc.bias" in load_encoder(fewer, trained, (*loaded.classes[:2], "none"))
    flags = ["--encoder.name", "auto", "--encoder.stem", "own", "--run.start", str(trained)]
    asked, line = with_encoder_of_start(resolve("supervised:digits_resnet", flags))
    assert (asked.encoder.name, asked.encoder.stem) == ("test_resnet", "own")
    assert line is not None
    assert "timm's test_resnet" in line


def test_released_files_are_read_and_other_networks_and_colours_are_refused(tmp_path):
    net = timm.create_model("test_resnet", num_classes=7)
    held = {f"module.{name}": each for name, each in net.state_dict().items() if "num_batches" not in name}
    torch.save({"state_dict": held}, tmp_path / "x.pth")
    recipe = resolve("supervised:digits_resnet", ["--encoder.stem", "own"])
    method = method_class(recipe)(recipe, CLASSES)
    said = load_encoder(method, tmp_path / "x.pth")
    assert "which it does not say" in said
    assert "new: fc.weight, fc.bias" in said
    assert torch.equal(method.encoder.net.layer4[0].conv1.weight, net.layer4[0].conv1.weight)
    cut = {name: each[:, :, :1] if each.ndim == 4 else each for name, each in net.state_dict().items()}
    torch.save({"state_dict": cut}, tmp_path / "y.pth")
    with pytest.raises(InputError, match=r"expected conv1\.0\.weight of shape \[16, 3, 3, 3\], as test_resnet has it"):
        load_encoder(method, tmp_path / "y.pth")
    with pytest.raises(InputError, match="a classifier of timm is given ImageNet's here"):
        load_encoder(method, tmp_path / "x.pth", None, "half")


def test_an_export_to_timm_is_the_same_model_and_starts_a_run(trained, tmp_path):
    loaded = load_run(trained)
    ToTimm().write(loaded, tmp_path)
    assert ToTimm().check(loaded, tmp_path).difference < 1e-5
    recipe = resolve("supervised:digits_resnet", ["--encoder.stem", "own"])
    method = method_class(recipe)(recipe, CLASSES)
    assert load_encoder(method, tmp_path, loaded.classes).endswith("new: none")
    flags = "--encoder.name test_resnet --encoder.stem own"
    judged = load_judged(str(tmp_path), f"supervised:digits_resnet {flags} --data.root /nowhere")
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    assert torch.allclose(judged.method.logits(images), loaded.method.logits(images), atol=1e-5)


def test_onnx_few_shot_and_refusals(trained, tmp_path):
    loaded = load_run(trained)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        scores = Scores(loaded.method.eval_encoder).eval()(images)  # what the ONNX graph is made of
    assert torch.allclose(scores, loaded.method.logits(images), atol=1e-5)
    features = FeatureExtractor(loaded.method, loaded.recipe).eval()
    assert features(images).shape == (3, features.width)
    with pytest.raises(InputError, match="is read as its classifier does; set --pool recipe"):
        FeatureExtractor(loaded.method, loaded.recipe, "avg")
    with pytest.raises(InputError, match=r"read the tokens of a plain ViT, runs/x has a TimmClassifier"):
        check_tokens(loaded.method.eval_encoder, "avg", "runs/x")
    with pytest.raises(InputError, match=r"holds a plain ViT, .* has a TimmClassifier; use --to safetensors or"):
        ToViTMAE().write(loaded, tmp_path)


def test_a_small_stem_has_no_name_in_timm(tmp_path, digits):
    folder = tmp_path / "run"
    run("supervised:digits_resnet", folder, digits, "--optim.epochs=1", "--optim.labels-only-epochs=0")
    with pytest.raises(InputError, match=r"has a small one \(encoder\.stem\); use --to safetensors or --to onnx"):
        ToTimm().write(load_run(folder), tmp_path)
