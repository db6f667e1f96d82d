"""The packed Semi-MAE step: its loss and every gradient are those of separate, plain timm forwards, in float64."""

import copy

import pytest
import timm
import torch
from timm.layers import DropPath

from models.bench import baselines
from models.encoder import vit as vit_file
from models.encoder.packed import as_packed
from models.masked.mae import Decoder

DOUBLE = torch.float64
AVERAGE = {"global_pool": "avg", "fc_norm": False}
VARIANTS = {
    "class token": {},
    "registers": {"reg_tokens": 2},
    "registers without positions": {"reg_tokens": 2, "no_embed_class": True},
    "query and key norms": {"qk_norm": True},
    "layer scale": {"init_values": 0.3},
    "scale norms": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "norm before the blocks": {"pre_norm": True},
    "average pooling": AVERAGE,
    "average pooling over registers": AVERAGE | {"reg_tokens": 2, "pool_include_prefix": True},
    "no class token": AVERAGE | {"class_token": False},
    "attention pooling": {"global_pool": "map"},
    "no qkv bias": {"qkv_bias": False},
}


def build(drop_path=0.0, **options):
    """A plain timm ViT, its packed twin, and one decoder for each, all in float64 with no weight at zero."""
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 5} | options
    plain = timm.create_model("vit_tiny_patch16_224", drop_path_rate=drop_path, **options).to(DOUBLE)
    decoder = Decoder(32, (4, 4), 8, width=24, depth=2, heads=3, prefix=plain.num_prefix_tokens).to(DOUBLE)
    with torch.no_grad():
        for parameter in (*plain.parameters(), *decoder.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return plain, decoder, as_packed(copy.deepcopy(plain)), copy.deepcopy(decoder)


def draw(passing, unlabelled=7):
    images = [torch.randn(n, 3, 32, 32, dtype=DOUBLE) for n in (2, unlabelled, unlabelled)]
    visible = torch.rand(unlabelled, 16).argsort(1)[:, :4].sort(1).values
    passed = torch.randperm(unlabelled) < passing
    return baselines.Step(images[0], torch.tensor([1, 4]), *images[1:], visible, passed)


def assert_equal_losses_and_gradients(ours, theirs):
    """Each is (loss, modules). The floor is for biases that softmax ignores: their true gradient is 0."""
    (our_loss, our_modules), (their_loss, their_modules) = ours, theirs
    assert our_loss.item() == pytest.approx(their_loss.item(), rel=1e-12)
    our_loss.backward(), their_loss.backward()
    gradients = [
        (name, a.grad, b.grad)
        for our_module, their_module in zip(our_modules, their_modules, strict=True)
        for (name, a), b in zip(our_module.named_parameters(), their_module.parameters(), strict=True)
    ]
    largest = max(b.abs().max() for _, _, b in gradients)
    for name, a, b in gradients:
        error = (a - b).abs().max() / b.abs().max().clamp_min(1e-6 * largest)
        assert error < 1e-9, f"{name}: {error:.1e}"


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_gradients_equal_separate_plain_forwards(name):
    plain, plain_decoder, vit, decoder = build(**VARIANTS[name])
    step = draw(passing=3)
    ours = baselines.packed(vit, decoder, step)
    theirs = baselines.separate(plain, plain_decoder, step)
    assert_equal_losses_and_gradients((ours, (vit, decoder)), (theirs, (plain, plain_decoder)))


@pytest.mark.parametrize("passing", [0, 1, 7])
def test_it_does_not_matter_how_many_pseudo_labels_pass(passing):
    plain, plain_decoder, vit, decoder = build()
    step = draw(passing)
    ours = baselines.packed(vit, decoder, step)
    theirs = baselines.separate(plain, plain_decoder, step)
    assert_equal_losses_and_gradients((ours, (vit, decoder)), (theirs, (plain, plain_decoder)))


def test_checkpointing_activations_changes_no_gradient():
    plain, plain_decoder, vit, decoder = build()
    vit.set_grad_checkpointing()
    step = draw(passing=3)
    ours = baselines.packed(vit, decoder, step)
    theirs = baselines.separate(plain, plain_decoder, step)
    assert_equal_losses_and_gradients((ours, (vit, decoder)), (theirs, (plain, plain_decoder)))


def test_the_peers_ways_agree_so_the_benchmark_compares_like_with_like():
    plain, plain_decoder, other, other_decoder = build()
    step = draw(passing=3)
    usb = baselines.usb(other, other_decoder, step)
    separate = baselines.separate(plain, plain_decoder, step)
    assert_equal_losses_and_gradients((usb, (other, other_decoder)), (separate, (plain, plain_decoder)))


def test_drop_path_draws_equal_plain_forwards_and_spares_the_masked_branch(monkeypatch):
    plain, plain_decoder, vit, decoder = build(drop_path=0.5)
    step = draw(passing=3)
    drawn = {}

    def remember(drop_paths, x, layout, draw=vit_file.drop_factors):
        factors = draw(drop_paths, x, layout)
        samples = [samples for samples, _ in layout.shapes]
        groups = {part: each.split(samples) for part, each in zip(drop_paths, factors, strict=True) if each is not None}
        assert all(group[-1].eq(1).all() for group in groups.values())  # the masked branch
        drawn.update({part: group[:-1] for part, group in groups.items()})
        return factors

    monkeypatch.setattr(vit_file, "drop_factors", remember)
    ours = baselines.packed(vit, decoder, step)
    assert len(drawn) == 4  # two in each block but the first, whose rate is 0
    assert all([len(factors) for factors in group] == [2, 3] for group in drawn.values())
    assert {value for group in drawn.values() for factors in group for value in factors.unique().tolist()} > {0.0}

    twins = {
        b: drawn[a]
        for a, b in zip(vit.modules(), plain.modules(), strict=True)
        if isinstance(b, DropPath) and a in drawn
    }
    of_group = {"now": 0}
    monkeypatch.setattr(
        DropPath,
        "forward",
        lambda self, x: x * twins[self][of_group["now"]][:, :, None] if of_group["now"] is not None else x,
    )
    rows = step.passed.nonzero().squeeze(1)
    of_group["now"] = None
    guess = plain(step.weak).argmax(-1)
    pixels = baselines.plain_mae(plain, plain_decoder, step.weak, step.visible)
    of_group["now"] = 0
    label = torch.nn.functional.cross_entropy(plain(step.labelled), step.labels)
    of_group["now"] = 1
    pseudo = torch.nn.functional.cross_entropy(plain(step.strong[rows]), guess[rows], reduction="sum") / 7
    theirs = label + baselines.LAMBDA_U * pseudo + baselines.MU * pixels
    assert_equal_losses_and_gradients((ours, (vit, decoder)), (theirs, (plain, plain_decoder)))


def test_rejected_strong_images_and_hidden_pixels_are_never_read():
    def gradients(step):
        _, _, vit, decoder = build()
        loss = baselines.packed(vit, decoder, step)
        loss.backward()
        return [loss, *(parameter.grad for parameter in (*vit.parameters(), *decoder.parameters()))]

    torch.manual_seed(1)
    step = draw(passing=3)
    poisoned = step.strong.clone()
    poisoned[~step.passed] = float("nan")
    clean, dirty = gradients(step), gradients(baselines.Step(**{**vars(step), "strong": poisoned}))
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))
    assert all(gradient.isfinite().all() for gradient in dirty)
    # and the poison works: the peers' way drowns in it
    plain, decoder, _, _ = build()
    assert baselines.separate(plain, decoder, baselines.Step(**{**vars(step), "strong": poisoned})).isnan()
