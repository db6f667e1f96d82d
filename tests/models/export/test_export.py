"""A run in other libraries' formats: loaded there it gives the same outputs, and a copy that does not is not kept."""

import json
import shlex
import sys
from importlib.util import find_spec

import pytest
import timm
import torch
from safetensors.torch import load_file

from models.config.resolve import resolve
from models.encoder.patches import IMAGENET
from models.export import __main__ as export
from models.export.export_format import CheckResult, as_input, images_like
from models.export.to_onnx import ToOnnx
from models.export.to_timm import ToTimm
from models.export.to_vitmae import ToViTMAE
from models.factory import method_class
from models.load import Loaded, load_run
from pipeline.errors import InputError

ONNX = pytest.mark.skipif(
    not (find_spec("onnxruntime") and find_spec("onnxscript")), reason="onnxruntime is not installed"
)


@pytest.fixture
def asked(monkeypatch):
    def run(*argv: object) -> None:
        monkeypatch.setattr(sys, "argv", ["models.export", *map(str, argv)])
        export.main()

    return run


def test_the_input_of_other_libraries_is_torchvisions_normalisation(trained):
    from torchvision.transforms.functional import normalize

    loaded = load_run(trained("supervised:digits"))
    images = images_like(loaded)
    expected = normalize(images.float() / 255, IMAGENET.mean, IMAGENET.std)
    assert torch.allclose(as_input(loaded, images), expected, atol=1e-5)


@pytest.mark.parametrize(("recipe", "labels"), [
    ("supervised:digits", "those of the split 5-per-class"), ("mae:digits", "none"),
])  # fmt: skip
def test_timm_loads_it_and_answers_bitwise(recipe, labels, trained, asked, tmp_path, capsys):
    folder = trained(recipe)
    asked(folder, "--out", tmp_path / "home")
    assert "bitwise equal" in capsys.readouterr().out
    model = timm.create_model(f"local-dir:{tmp_path / 'home'}", pretrained=True).eval()
    loaded = load_run(folder)
    images = images_like(loaded)
    with torch.inference_mode():
        theirs = model(as_input(loaded, images))
        if loaded.method.has_classifier:
            assert torch.allclose(theirs, loaded.method.logits(images), atol=1e-5)  # packed: other sums
    assert model.pretrained_cfg["mean"] == IMAGENET.mean or model.pretrained_cfg["mean"] == list(IMAGENET.mean)
    card = (tmp_path / "home" / "README.md").read_text()
    python, train, name, *flags = shlex.split(card.partition("```bash\n")[2].partition("\n")[0])
    assert (python, train, name) == ("python", "train.py", recipe)
    assert resolve(name, flags) == loaded.recipe
    assert f"labels that were seen: {labels}\n" in card
    assert "| test |" in card


@pytest.mark.parametrize("recipe", ["supervised:digits", "probe:digits", "semiformer:digits", "lomar:digits_irpe"])
def test_safetensors_hold_each_weight_with_classes_and_recipe(recipe, trained, asked, tmp_path):
    folder = trained(recipe)
    asked(folder, "--to", "safetensors", "--out", tmp_path / "home")
    held, loaded = load_file(tmp_path / "home" / "model.safetensors"), load_run(folder)
    ours = loaded.method.eval_encoder.state_dict()
    assert held.keys() == ours.keys()
    assert all(torch.equal(held[name], ours[name]) for name in ours)
    header = (tmp_path / "home" / "model.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert json.loads(json.loads(header[8 : 8 + size])["__metadata__"]["classes"]) == list("0123456789")


@ONNX
def test_onnxruntime_answers_alike_on_any_number_of_images(trained, asked, tmp_path, capsys):
    asked(trained("supervised:digits"), "--to", "onnx", "--out", tmp_path / "home")
    assert "when loaded with onnxruntime" in capsys.readouterr().out


@pytest.mark.skipif(not find_spec("transformers"), reason="transformers is not installed")
@pytest.mark.parametrize("recipe", ["mae:digits", "semi_mae:digits"])  # the second keeps an average, which is exported
def test_transformers_vitmae_predicts_the_same_pixels(recipe, trained, asked, tmp_path, capsys):
    asked(trained(recipe), "--to", "hf-vitmae", "--out", tmp_path / "home")
    assert "when loaded with transformers" in capsys.readouterr().out


def test_vitmae_is_written_under_the_names_of_transformers_4(trained, asked, tmp_path):
    asked(trained("mae:digits"), "--to", "hf-vitmae", "--out", tmp_path / "home")
    names = set(load_file(tmp_path / "home" / "model.safetensors"))
    for expected in (
        "vit.embeddings.patch_embeddings.projection.weight", "vit.encoder.layer.1.attention.attention.query.weight",
        "vit.encoder.layer.0.layernorm_before.bias", "decoder.decoder_layers.0.output.dense.weight",
        "decoder.decoder_pos_embed", "decoder.decoder_pred.bias",
    ):  # fmt: skip
        assert expected in names
    assert len(names) == 4 + 2 * 5 + 16 * 3  # tokens and positions; layers; two blocks and one


def answered_by_onnx(folder, images):
    """Return the outputs of onnxruntime alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@ONNX
@pytest.mark.parametrize("recipe", ["probe:digits", "finetune:digits_blocks/1", "semiformer:digits"])
def test_onnx_answers_as_the_run_does_whatever_its_classifier_is(recipe, trained, tmp_path):
    loaded = load_run(trained(recipe))
    ToOnnx().write(loaded, tmp_path)
    for count in (1, 3):
        images = images_like(loaded, count)
        with torch.inference_mode():
            ours = loaded.method.logits(images)
        torch.testing.assert_close(answered_by_onnx(tmp_path, images), ours, rtol=1e-4, atol=1e-6)


@ONNX
@pytest.mark.parametrize("position", ["irpe", "bias", "block_bias"])
def test_onnx_knows_relative_positions(position, tmp_path):
    """Tables that have learned, as a fresh one of zeros is no position at all."""
    recipe = resolve("finetune:digits", [f"--encoder.position={position}", "--encoder.depth=2"])
    torch.manual_seed(0)
    method = method_class(recipe)(recipe, 10).eval()
    torch.nn.init.normal_(method.eval_encoder.head.weight)
    tables = [
        each for name, each in method.eval_encoder.named_parameters() if "lookup_table" in name or "bias_table" in name
    ]
    loaded = Loaded(tmp_path, recipe, method, tuple("0123456789"), 0)
    images = images_like(loaded, 3)
    with torch.no_grad():
        without = method.logits(images)
        for table in tables:
            torch.nn.init.normal_(table)
        ours = method.logits(images)
    assert not torch.allclose(ours, without, atol=0.1)
    ToOnnx().write(loaded, tmp_path)
    assert torch.allclose(answered_by_onnx(tmp_path, images), ours, atol=1e-4)


def test_a_copy_that_is_another_model_is_not_kept(trained, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(ToTimm, "check", lambda *_: CheckResult(0.5, "timm"))
    with pytest.raises(InputError, match="another model, outputs differ by"):
        asked(trained("supervised:digits"), "--out", tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("recipe", "flags", "said"), [
    ("supervised:digits", ["--to", "hf-vitmae"], "holds a class token, MAE's decoder and pixels"),
    ("probe:digits", ["--to", "hf-vitmae"], "holds a class token, MAE's decoder and pixels"),
    ("finetune:digits_blocks/1", ["--to", "hf-vitmae"], "holds a class token, MAE's decoder and pixels"),
    ("lomar:digits_irpe", ["--to", "hf-vitmae"], "has positions of kind irpe; use --to safetensors or --to onnx"),
    ("lomar:digits_irpe", ["--to", "timm"], "has positions of kind irpe; use --to safetensors or --to onnx"),
    ("semiformer:digits", ["--to", "hf-vitmae"], "has a Semiformer; use --to safetensors or --to onnx"),
    ("semiformer:digits", ["--to", "timm"], "has a Semiformer; use --to safetensors or --to onnx"),
    ("supervised:digits", ["--out", "/nowhere/at/all"], "expected an existing folder around it"),
    ("supervised:digits", ["--out", "."], "is there already"),
    ("supervised:digits", ["--out", "/proc/home"], "nothing can be written in /proc"),
])  # fmt: skip
def test_what_cannot_be_exported_is_said(recipe, flags, said, trained, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "--out" not in flags:
        flags = [*flags, "--out", "home"]
    with pytest.raises(InputError, match=said) as refused:
        asked(trained(recipe), *flags)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("flag", "said"), [
    ("--encoder.position=none", "needs pos_embed"),
    ("--encoder.layer-scale=0.1", r"has no place for blocks.0.ls1.gamma"),
])  # fmt: skip
def test_an_encoder_that_is_not_vitmaes_is_refused_before_anything_is_written(flag, said, tmp_path):
    recipe = resolve("mae:digits", [flag])
    loaded = Loaded(tmp_path, recipe, method_class(recipe)(recipe, 10).eval(), (), 0)
    with pytest.raises(InputError, match=said):
        ToViTMAE().write(loaded, tmp_path)
    assert list(tmp_path.iterdir()) == []
