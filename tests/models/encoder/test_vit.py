"""The encoder: what goes in, what comes out, and what cannot leak."""

import copy
from functools import partial

import pytest
import timm
import torch
from torch import nn

from models.encoder.packed import as_packed
from models.encoder.patches import Normalisation, hidden_from_visible, patchify, unpatchify
from models.encoder.vit import (
    FullImages,
    MaskedImages,
    SelectedImages,
    Size,
    VisiblePatches,
    build_encoder,
    classify,
    encode,
    eval_logits,
    evaluating,
)

DOUBLE = torch.float64
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 5}
VARIANTS = [
    {},
    {"qk_norm": True, "init_values": 0.2},
    {"reg_tokens": 2, "no_embed_class": True},
    {"reg_tokens": 2},
    {"pre_norm": True},
    {"class_token": False, "global_pool": "avg"},
    {"global_pool": "avg"},
    {"global_pool": "avg", "fc_norm": False},
    {"global_pool": "map"},
    {"dynamic_img_size": True},
    {"pos_embed": "none"},
    {"final_norm": False},
]


def build(**options):
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", **SMALL | options).to(DOUBLE)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return vit


def images(samples=3, height=32, width=32):
    return torch.randn(samples, 3, height, width, dtype=DOUBLE)


def some_visible(samples=3, seen=4, patches=16):
    return torch.rand(samples, patches).argsort(1)[:, :seen].sort(1).values


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_whole_view_is_timms_forward(options):
    plain = build(**options)
    vit, x = as_packed(copy.deepcopy(plain)), images()
    (tokens,) = encode(vit, [FullImages(x, pooled=False)])
    torch.testing.assert_close(tokens, plain.forward_features(x), rtol=1e-11, atol=1e-11)
    (logits,) = classify(vit, encode(vit, [FullImages(x)]))
    torch.testing.assert_close(logits, plain(x), rtol=1e-11, atol=1e-11)
    assert torch.equal(vit(x), plain(x))  # called as timm calls it, it is timm


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_weights_are_timms_both_ways(options):
    plain, other = build(**options), timm.create_model("vit_tiny_patch16_224", **SMALL | options)
    vit = as_packed(copy.deepcopy(plain))
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {name: tensor.shape for name, tensor in vit.state_dict().items()} == shapes
    other.to(DOUBLE).load_state_dict(vit.state_dict(), strict=True)
    vit.load_state_dict(other.state_dict(), strict=True)
    x = images()
    assert torch.equal(other.eval()(x), vit.eval()(x))


def test_an_export_opens_in_timm_with_bit_equal_logits(tmp_path):
    vit = build_encoder(Size(32, 2, 4), image_size=32, patch=8, classes=5, position="sincos").eval()
    torch.save(vit.state_dict(), tmp_path / "encoder.pth")
    options = SMALL | {"depth": 2, "checkpoint_path": str(tmp_path / "encoder.pth")}
    x = images().float()
    assert torch.equal(timm.create_model("vit_tiny_patch16_224", **options).eval()(x), vit(x))


def test_groups_do_not_influence_each_other():
    vit, x, y = as_packed(build()), images(), images(5)
    rows, visible = torch.tensor([4, 0]), some_visible(5)
    groups = [
        FullImages(x),
        SelectedImages(y, rows),
        SelectedImages(y, rows[:0]),
        VisiblePatches(y, visible),
        FullImages(y, pooled=False),
    ]
    together = encode(vit, groups)
    assert [tuple(t.shape) for t in together] == [(3, 1, 32), (2, 1, 32), (0, 1, 32), (5, 5, 32), (5, 17, 32)]
    for group, tokens in zip(groups, together, strict=True):
        torch.testing.assert_close(tokens, encode(vit, [group])[0])
    torch.testing.assert_close(together[1], together[4][rows, :1])
    torch.testing.assert_close(encode(vit, [VisiblePatches(y[rows], visible[rows])])[0], together[3][rows])
    assert [len(logits) for logits in classify(vit, together[:3])] == [3, 2, 0]


def test_samples_have_no_gradient_in_each_other():
    vit, x = as_packed(build()), images(4).requires_grad_()
    visible = some_visible(4)
    whole, partly = encode(vit, [FullImages(x), VisiblePatches(x, visible)])
    (gradient,) = torch.autograd.grad(whole[1].sum() + partly[1].square().sum(), x)
    assert gradient[1].abs().min() > 0
    assert not gradient[[0, 2, 3]].any()


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
def test_nan_in_hidden_patches_changes_no_bit_and_reaches_no_gradient(dtype):
    x, visible = images().to(dtype), some_visible()
    poisoned = patchify(x, 8).scatter(1, hidden_from_visible(visible, 16)[..., None].expand(-1, -1, 192), float("nan"))
    results = []
    for pixels in (x, unpatchify(poisoned, (4, 4), 8)):
        vit = as_packed(build()).to(dtype)
        (tokens,) = encode(vit, [VisiblePatches(pixels, visible)])
        tokens.square().sum().backward()
        results.append([tokens, *(p.grad for name, p in vit.named_parameters() if not name.startswith("head"))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(tensor.isfinite().all() for tensor in results[1])


@pytest.mark.parametrize("normalisation", [Normalisation(), Normalisation((0.5,) * 3, (0.25,) * 3)])
def test_u8_images_are_normalised_floats_whatever_their_storage(normalisation):
    vit = as_packed(build())
    vit.normalisation = normalisation
    u8 = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(v, dtype=DOUBLE).view(3, 1, 1) for v in (normalisation.mean, normalisation.std))
    floats, visible = (u8.to(DOUBLE) / 255 - mean) / std, some_visible()
    expected = encode(vit, [FullImages(floats), VisiblePatches(floats, visible)])
    for stored in (u8, u8.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)):
        for a, b in zip(encode(vit, [FullImages(stored), VisiblePatches(stored, visible)]), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    mixed = encode(vit, [FullImages(u8), VisiblePatches(floats, visible)])
    torch.testing.assert_close(mixed, expected, rtol=1e-11, atol=1e-11)


def test_images_of_two_sizes_share_a_pass():
    plain = build(dynamic_img_size=True)
    vit, small, wide = as_packed(copy.deepcopy(plain)), images(), images(2, 24, 40)
    for tokens, x in zip(encode(vit, [FullImages(small), FullImages(wide)]), (small, wide), strict=True):
        torch.testing.assert_close(tokens, plain.forward_features(x)[:, :1], rtol=1e-11, atol=1e-11)


def test_covered_patches_enter_as_mask_tokens_with_their_positions():
    plain, x = build(), images()
    vit, covered, token = as_packed(copy.deepcopy(plain)), torch.rand(3, 16) < 0.6, torch.randn(32, dtype=DOUBLE)
    embedded = torch.where(covered[..., None], token, plain.patch_embed(x))
    expected = plain.norm(plain.blocks(plain._pos_embed(embedded)))
    torch.testing.assert_close(encode(vit, [MaskedImages(x, covered, token)])[0], expected, rtol=1e-11, atol=1e-11)
    # a window twice over: LoMaR's way
    ids, rows = torch.tensor([[0, 1, 4, 5]]).expand(2, -1), torch.tensor([2, 2])
    first, second = encode(vit, [MaskedImages(x, torch.tensor([[False] * 4, [True] * 4]), token, ids, rows)])[0]
    torch.testing.assert_close(first, encode(vit, [VisiblePatches(x[2:], ids[:1])])[0][0])
    assert not torch.allclose(first, second)


def test_a_look_is_evals_logits_and_leaves_every_mode_as_it_was():
    plain = build(proj_drop_rate=0.5, drop_path_rate=0.5)
    vit, x = as_packed(copy.deepcopy(plain)).train(), images()
    vit.blocks[0].eval()
    modes = [module.training for module in vit.modules()]
    logits = eval_logits(vit, x)
    assert not logits.requires_grad
    torch.testing.assert_close(logits, plain.eval()(x), rtol=1e-11, atol=1e-11)
    assert [module.training for module in vit.modules()] == modes
    with pytest.raises(RuntimeError, match="halfway"), evaluating(vit):
        raise RuntimeError("halfway")
    assert [module.training for module in vit.modules()] == modes


def test_looking_first_does_not_cost_the_student_its_gradients_under_autocast():
    vit, x = as_packed(build()).float(), images().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eval_logits(vit, x)  # autocast keeps casts of weights: made without gradient here, needed with it below
        loss = classify(vit, encode(vit, [FullImages(x)]))[0].float().square().sum()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in vit.parameters())


def test_a_frozen_encoder_can_be_looked_at_in_inference_mode_and_trained_afterwards():
    vit = build_encoder(Size(32, 2, 4), image_size=32, patch=8, classes=5, normalisation=Normalisation((0.1,) * 3))
    u8 = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        eval_logits(vit, u8)
    classify(vit, encode(vit, [FullImages(u8)]))[0].sum().backward()
    assert vit.patch_embed.proj.weight.grad.any()


def test_the_head_runs_once_so_a_group_without_rows_still_reaches_it():
    vit, x, calls = as_packed(build()), images(), []
    vit.head.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    groups = encode(vit, [FullImages(x), SelectedImages(x, torch.empty(0, dtype=torch.int64))])
    labelled, strong = classify(vit, groups)
    assert calls == [3]
    (labelled.sum() + strong.sum()).backward()
    assert all(parameter.grad is not None for parameter in vit.parameters())


def test_drop_path_can_be_switched_off_for_one_group():
    vit, x = as_packed(build(drop_path_rate=0.9)).train(), images(8)
    visible = some_visible(8)
    still = partial(encode, vit, [FullImages(x), VisiblePatches(x, visible)])
    (a, b), (c, d) = still(), still()
    assert not torch.equal(a, c)
    assert torch.equal(b, d)
    with evaluating(vit):
        torch.testing.assert_close(b, still()[1])
    assert isinstance(vit.blocks[0].drop_path1, nn.Identity)  # the first block has rate 0
