"""Starting from files that others released, and from positions of another grid."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from models.checkpoint import save_load
from models.encoder.relative import BLOCK_TABLE, SHARED_TABLE
from models.encoder.vit import FullImages, Size, build_encoder, encode, eval_logits
from models.pretrained import load_encoder
from pipeline.errors import InputError


def method(size=32, *, classes=5, width=32, depth=2, heads=4, ema=False, patch=8, **more):
    torch.manual_seed(classes)
    vit = build_encoder(Size(width, depth, heads), image_size=size, patch=patch, classes=classes, **more)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.normal_(std=0.3)
    kept = SimpleNamespace(
        module=build_encoder(Size(width, depth, heads), image_size=size, patch=patch, classes=classes)
    )
    return SimpleNamespace(encoder=vit, ema=kept if ema else None, branch=None)


def mae_file(folder, own, *, beside=(), **more):
    """A file as MAE's trainer writes it: encoder and decoder under "model"."""
    held = {name: tensor.clone() for name, tensor in own.encoder.state_dict().items() if not name.startswith("head.")}
    held |= {"mask_token": torch.zeros(1, 1, 16), "decoder_pos_embed": torch.zeros(1, 17, 16)}
    held |= {f"decoder_blocks.{i}.norm1.weight": torch.ones(16) for i in range(3)} | dict(beside)
    torch.save({"model": held} | more, folder / "mae.pth")
    return folder / "mae.pth"


def test_maes_file_fills_the_encoder_and_its_average_and_says_what_was_left_out(tmp_path):
    before, after = method(), method(classes=7, ema=True)
    said = load_encoder(after, mae_file(tmp_path, before))
    for name, tensor in before.encoder.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(after.encoder.state_dict()[name], tensor)
    held = after.encoder.state_dict()
    assert all(torch.equal(tensor, held[name]) for name, tensor in after.ema.module.state_dict().items())
    assert said == (
        f"30 tensors of the encoder from {tmp_path}/mae.pth (a released file, model); "
        "left out: mask_token, decoder_pos_embed, decoder_blocks.* (3); new: head.weight, head.bias"
    )


def test_maes_own_training_checkpoint_loads_with_its_arguments_and_nothing_that_runs(tmp_path):
    before = method()
    path = mae_file(tmp_path, before, epoch=3, args=Namespace(blr=1.5e-4, output_dir="x"), optimizer={"state": {}})
    after = method(classes=7)
    load_encoder(after, path)
    assert torch.equal(after.encoder.norm.weight, before.encoder.norm.weight)
    for wrong in ({"args": SimpleNamespace(blr=1)}, {"hook": print}):
        path = mae_file(tmp_path, before, **wrong)
        with pytest.raises(InputError, match="cut short, or holds more than tensors and plain types") as refused:
            load_encoder(after, path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("head", ["head.0.weight", "cls_head.3.weight", "mlp_head.weight"])
def test_supmaes_file_is_maes_with_a_head_that_is_left_out_whatever_its_name(tmp_path, head):
    own = method(classes=7)
    kept = own.encoder.head.weight.clone()
    said = load_encoder(own, mae_file(tmp_path, method(), beside={head: torch.ones(9, 32)}))
    assert f"{head.split('.')[0]}.* (1); new: head.weight, head.bias" in said
    assert torch.equal(own.encoder.head.weight, kept)


def test_a_pooled_norm_is_new_and_so_is_the_classifier_behind_it(tmp_path):
    after = method(fc_norm=True, pool="avg")
    before = {name: tensor.clone() for name, tensor in after.encoder.state_dict().items()}
    beside = {"head.weight": torch.ones(5, 32), "head.bias": torch.ones(5)}
    said = load_encoder(after, mae_file(tmp_path, method(), beside=beside))
    assert said.endswith("new: fc_norm.weight, fc_norm.bias, head.weight, head.bias")
    assert "norm.* (2)" in said
    held = after.encoder.state_dict()
    assert all(torch.equal(held[name], before[name]) for name in held if name.startswith(("fc_norm.", "head.")))


def test_a_fine_tuned_file_brings_its_norm_and_classifier_and_needs_both(tmp_path):
    tuned = method(fc_norm=True, pool="avg")
    path = mae_file(tmp_path, tuned, beside={k: v for k, v in tuned.encoder.state_dict().items() if "head" in k})
    after = method(fc_norm=True, pool="avg", classes=5)
    assert load_encoder(after, path).endswith("new: none")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(eval_logits(after.encoder, x), eval_logits(tuned.encoder, x))
    with pytest.raises(InputError, match=r"final norm behind the pooling \(fc_norm.\*\); add --encoder.fc-norm"):
        load_encoder(method(pool="avg"), path)


@pytest.mark.parametrize("position", ["learned", "sincos"])
@pytest.mark.parametrize(("size", "patch"), [(64, 8), (24, 8)])
def test_positions_of_another_grid_are_resampled_as_timm_does(tmp_path, position, size, patch):
    before, after = method(position=position), method(size, patch=patch, position=position)
    said = load_encoder(after, mae_file(tmp_path, before))
    side = size // patch
    expected = resample_abs_pos_embed(before.encoder.pos_embed, [side, side], num_prefix_tokens=1)
    assert torch.equal(after.encoder.pos_embed, expected)
    assert torch.equal(after.encoder.pos_embed[0, 0], before.encoder.pos_embed[0, 0])
    assert f"positions resampled from 4 x 4 to {side} x {side} patches" in said
    assert after.encoder.pos_embed.requires_grad == (position == "learned")


@pytest.mark.parametrize("name", ["deit3_small_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_positions_that_are_the_patches_alone_are_resampled_as_timm_does(tmp_path, name):
    patch = 14 if "14" in name else 16
    before = timm.create_model(name, img_size=4 * patch, depth=1, num_classes=0)
    encoder = build_encoder(name, image_size=6 * patch, patch=patch, classes=5)
    encoder.blocks = encoder.blocks[:1]
    after = SimpleNamespace(encoder=encoder, ema=None, branch=None)
    torch.save(before.state_dict(), tmp_path / "file.pth")
    assert "positions resampled from 4 x 4 to 6 x 6 patches" in load_encoder(after, tmp_path / "file.pth")
    resized = timm.create_model(name, img_size=6 * patch, depth=1, num_classes=0).eval()
    resized.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(before.state_dict(), resized))
    x = torch.randn(2, 3, 6 * patch, 6 * patch)
    with torch.no_grad():
        found = encode(encoder.eval(), [FullImages(x, pooled=False)])[0]
        torch.testing.assert_close(found, resized.forward_features(x))


def test_positions_of_the_same_grid_are_copied(tmp_path):
    before, after = method(), method(classes=7)
    assert "resampled" not in load_encoder(after, mae_file(tmp_path, before))
    assert torch.equal(after.encoder.pos_embed, before.encoder.pos_embed)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"width": 48}, r"expected cls_token of shape \[1, 1, 48\], got \[1, 1, 32\]"),
        ({"depth": 3}, r"expected blocks.2.norm1.weight of shape \[32\], got nothing"),
        ({"depth": 1}, "has blocks.1.norm1.weight of shape .* which this encoder has not"),
        ({"patch": 16}, r"expected patch_embed.proj.weight of shape \[32, 3, 16, 16\], got \[32, 3, 8, 8\]"),
        ({"layer_scale": 0.1}, r"expected blocks.0.ls1.gamma of shape \[32\], got nothing"),
        ({"position": "none"}, "trained with position learned or sincos, got none"),
    ],
)
def test_an_encoder_of_another_shape_is_refused_in_one_line(tmp_path, other, said):
    path = mae_file(tmp_path, method())
    with pytest.raises(InputError, match=said) as refused:
        load_encoder(method(**other), path)
    assert "\n" not in str(refused.value)


def test_nothing_of_the_sources_encoder_is_left_out_in_silence(tmp_path):
    path = mae_file(tmp_path, method(layer_scale=0.1))
    with pytest.raises(InputError, match=r"has blocks.0.ls1.gamma of shape \[32\], which this encoder has not"):
        load_encoder(method(), path)


def test_an_encoder_that_ends_before_the_sources_last_block_takes_its_first_ones(tmp_path):
    before, after = method(), method(depth=1, classes=7)
    after.encoder.norm = nn.Identity()
    assert "blocks.* (12), norm.* (2)" in load_encoder(after, mae_file(tmp_path, before))
    assert torch.equal(after.encoder.blocks[0].mlp.fc2.weight, before.encoder.blocks[0].mlp.fc2.weight)


def test_beits_and_simmims_names_are_ours(tmp_path):
    before, after = method(position="bias", layer_scale=0.1), method(position="block_bias", layer_scale=0.1)
    with torch.no_grad():
        for block in before.encoder.blocks:
            block.attn.qkv.bias[32:64] = 0  # no bias on keys
    held = {}
    for name, tensor in before.encoder.state_dict().items():
        name = f"encoder.{name}".replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")
        if name.endswith("qkv.bias"):
            held |= dict(zip((name.replace("qkv.bias", f"{x}_bias") for x in "qkv"), tensor.split(32), strict=True))
            del held[name.replace("qkv.bias", "k_bias")]
        else:
            held[name] = tensor
    held["encoder.rel_pos_bias.relative_position_index"] = torch.zeros(17, 17, dtype=torch.int64)
    torch.save({"model": held | {"decoder.0.weight": torch.ones(3)}}, tmp_path / "simmim.pth")
    said = load_encoder(after, tmp_path / "simmim.pth")
    assert "decoder.* (1)" in said
    assert torch.equal(after.encoder.state_dict()[f"blocks.1.{BLOCK_TABLE}"], before.encoder.state_dict()[SHARED_TABLE])
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        after.encoder.head.load_state_dict(before.encoder.head.state_dict())
    torch.testing.assert_close(eval_logits(after.encoder, x), eval_logits(before.encoder, x))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"", "cut short"),
        (b"no checkpoint", "cut short, or holds more"),
        ({"epoch": 3, "model": {}}, "holds no tensors by name"),
        ([torch.ones(2)], "holds no tensors by name"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_in_one_line(tmp_path, written, said):
    path = tmp_path / "x.pth"
    if isinstance(written, bytes):
        path.write_bytes(written)
    else:
        torch.save(written, path)
    with pytest.raises(InputError, match=said) as refused:
        load_encoder(method(), path)
    assert "\n" not in str(refused.value)


def test_safetensors_that_are_none_and_folders_without_weights_are_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"cannot read .*x.safetensors"):
        load_encoder(method(), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"Is a directory without last.pt, model.safetensors, pytorch_model.bin"):
        load_encoder(method(), tmp_path)
    with pytest.raises(InputError, match=r"cannot read checkpoint nowhere.pth"):
        load_encoder(method(), "nowhere.pth")


def test_a_damaged_checkpoint_of_ours_is_not_taken_for_somebody_elses(tmp_path):
    own = method()
    save_load.save(tmp_path, {"method": {f"encoder.{n}": t for n, t in own.encoder.state_dict().items()}})
    path = tmp_path / "last.pt"
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)
    with pytest.raises(InputError, match="is damaged"):
        load_encoder(own, tmp_path)
