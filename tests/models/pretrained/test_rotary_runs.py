"""Runs of rotary encoders: from a file of DINOv3 to an adapted run, its exports and its features; masked branches."""

import pytest
import torch

from models.encoder.vit import Size, build_encoder, encode
from models.evaluate.knn import check_tokens, features
from models.export.__main__ import export
from models.load import load_run
from models.masked.crossmae import CrossMAEBranch
from models.masked.lomar import LoMaRBranch
from models.masked.mae import MAEBranch
from models.masked.settings import Cross, Reconstruct
from models.masked.simmim import SimMIMBranch
from pipeline.errors import InputError
from tests.models.pretrained import released_files as released
from tests.models.pretrained.test_auto_runs import ran
from tests.models.pretrained.test_formats import started


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, digits):
    """A run of semi_mae that adapts DINOv3 by factors of low rank, with a moving average and layer decay."""
    folder = tmp_path_factory.mktemp("rotary")
    made = released.dinov3(folder)
    with pytest.MonkeyPatch.context() as patch:
        flags = ["--encoder.adapt=lora", "--encoder.lora-rank=2", "--optim.layer-decay=0.75", "--optim.ema-decay=0.9"]
        assert ran(patch, "semi_mae:digits", folder / "run", digits, made.start, *flags) == 0
    return folder / "run"


def test_a_run_adapts_dinov3_and_its_timm_folder_is_dinov3_again(adapted, tmp_path):
    loaded = load_run(adapted)
    assert (loaded.recipe.encoder.position, loaded.recipe.encoder.registers) == ("rope", 4)
    for to in ("timm", "safetensors"):
        assert export(loaded, to, tmp_path / to, lambda checked: "card").difference == 0.0
        encoder, recipe, _, _ = started(tmp_path / to / ("" if to == "timm" else "model.safetensors"))
        assert (recipe.encoder.position, recipe.encoder.width) == ("rope", released.WIDTH)
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        found = features(encoder, [images], "token")
        torch.testing.assert_close(found, features(loaded.method.eval_encoder, [images], "token"), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=r"hf-vitmae (has no place for|needs) "):
        export(loaded, "hf-vitmae", tmp_path / "vitmae", lambda checked: "card")
    check_tokens(loaded.method.eval_encoder, "token", "it")


@pytest.mark.slow
def test_a_rotary_encoder_is_exported_to_onnx(adapted, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    difference = export(load_run(adapted), "onnx", tmp_path / "onnx", lambda checked: "card").difference
    assert difference is not None
    assert difference < 1e-4


@pytest.mark.parametrize("branch", [MAEBranch, SimMIMBranch])
def test_masked_branches_train_a_rotary_encoder(branch):
    vit = build_encoder(Size(32, 2, 4, registers=2), image_size=32, patch=8, classes=3, position="rope")
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    visible = torch.stack([torch.randperm(16)[:4].sort().values for _ in range(4)])
    made = branch(vit, Reconstruct(width=32, depth=1, heads=4))
    (tokens,) = encode(vit, [made.group(images, visible)])
    made(tokens, images, visible).backward()
    assert all(block.attn.q_bias.grad.any() for block in vit.blocks)
    assert made.predict(vit, images, visible).shape == (4, 12, 192)


def test_lomars_windows_and_crossmaes_layers_read_a_rotary_encoder():
    vit = build_encoder(Size(32, 2, 4, registers=2), image_size=32, patch=8, classes=3, position="rope")
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    visible, hidden = (torch.tensor([ids] * 4) for ids in ([[0], [6]], [[1, 4, 5], [7, 10, 11]]))
    lomar = LoMaRBranch(vit, Reconstruct(width=32, depth=1, heads=4), 2)
    (tokens,) = encode(vit, [lomar.group(images, visible, hidden)])
    lomar(tokens, images, visible, hidden).backward()
    assert all(block.attn.q_bias.grad.any() for block in vit.blocks)
    cross = CrossMAEBranch(vit, Cross(width=32, depth=1, heads=4), 0)
    assert cross.predict(vit, images, visible[:, :, 0]).shape == (4, 14, 192)
