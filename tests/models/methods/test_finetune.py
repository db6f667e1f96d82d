"""Fine-tuning: its loss, what is trained of an encoder and at which rate, and what a run starts from."""

import sys

import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup

from models.config.resolve import named, resolve
from models.config.sweep import members
from models.export import __main__ as export
from models.factory import method_class
from models.method import Method, StepInfo
from models.methods import finetune
from models.optim.build import build_optimiser, lr_scale
from models.optim.schedule import Pools, learning_rate, run_length
from models.optim.update import set_lr
from models.pseudo_labels.mixup import batch_pairs
from pipeline.batch import Batch, Labelled
from pipeline.errors import InputError

CLASSES, INFO = 10, StepInfo(100, labels_only=False)
SMALL = ["--encoder.width=32", "--encoder.depth=3", "--encoder.heads=2"]


def method_of(*flags: str, name: str = "finetune:digits") -> Method:
    torch.manual_seed(0)
    recipe = resolve(name, [*SMALL, *flags])
    return method_class(recipe)(recipe, CLASSES).train()


def batch_of(images: int = 6) -> Batch:
    g = torch.Generator().manual_seed(0)
    shown = torch.randn(images, 3, 16, 16, generator=g, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (images,), generator=g)
    return Batch(0, Labelled(torch.arange(images), shown, labels), None)


def plain(vit, images: torch.Tensor) -> torch.Tensor:
    """timm's own forward: the mean of the patch tokens, then the norm, then the classifier."""
    tokens = vit.forward_features(images)
    return F.linear(F.layer_norm(tokens[:, 1:].mean(1), (32,), vit.fc_norm.weight, vit.fc_norm.bias, 1e-6),
                    vit.head.weight, vit.head.bias)  # fmt: skip


def moved(method: Method) -> Method:
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def test_without_mixtures_it_is_cross_entropy_behind_a_pooled_norm():
    method, labelled = (
        moved(method_of("--method.smoothing=0.2", "--optim.ema-decay=None").double()),
        batch_of().labelled,
    )
    assert isinstance(method.encoder.norm, torch.nn.Identity)
    paper = F.cross_entropy(plain(method.encoder, labelled.images), labelled.labels, label_smoothing=0.2)
    torch.testing.assert_close(method(batch_of(), INFO).total, paper, rtol=1e-12, atol=0)


def even_side(seed: int, mixup: float, cutmix: float) -> bool:
    """Whether a rectangle has even sides: timm now rounds odd ones up, the authors of CutMix and timm 0.3 down."""
    torch.manual_seed(seed)
    share = float(batch_pairs(6, mixup, cutmix, torch.device("cpu")).shares[0])
    return int(16 * (1 - share) ** 0.5) in (6, 8, 10)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_mixtures_and_their_loss_are_timms_in_batch_mode(monkeypatch, mixup, cutmix):
    method = moved(method_of(f"--method.mixup={mixup}", f"--method.cutmix={cutmix}", "--method.smoothing=0.1").double())
    labelled, drawn = batch_of().labelled, []
    monkeypatch.setattr(finetune, "batch_pairs", lambda *a: drawn.append(batch_pairs(*a)) or drawn[-1])
    torch.manual_seed(next(seed for seed in range(99) if even_side(seed, mixup, cutmix)))
    loss = method(batch_of(), INFO).total
    share, centre = float(drawn[0].shares[0]), drawn[0].centres[0]
    theirs = Mixup(mixup, cutmix, mode="batch", label_smoothing=0.1, num_classes=CLASSES)
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (share, cutmix > 0))
    at = iter((centre * 16).int().tolist())
    monkeypatch.setattr("numpy.random.randint", lambda *a, **k: next(at))
    images, targets = theirs(labelled.images.clone(), labelled.labels.clone().cpu())
    expected = -(targets.double() * plain(method.encoder, images).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_a_batch_is_mixed_by_one_draw_half_of_the_time_by_a_rectangle():
    torch.manual_seed(0)
    draws = [batch_pairs(5, 0.8, 1.0, torch.device("cpu")) for _ in range(600)]
    for pairs in draws[:20]:
        assert pairs.partners.tolist() == [4, 3, 2, 1, 0]
        assert all(len(set(map(str, each.tolist()))) == 1 for each in (pairs.shares, pairs.cut, pairs.centres))
    cut = torch.tensor([bool(pairs.cut[0]) for pairs in draws])
    shares = torch.stack([pairs.shares[0] for pairs in draws])
    assert 0.42 < cut.float().mean() < 0.58
    for which, a in ((cut, 1.0), (~cut, 0.8)):  # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1))
        assert shares[which].mean() == pytest.approx(0.5, abs=0.06)
        assert shares[which].var() == pytest.approx(1 / (4 * (2 * a + 1)), rel=0.2)


def test_a_run_says_what_it_started_from_and_what_it_trains(trained, tiny, tmp_path, capsys):
    trained_mae = trained("mae:digits")
    assert tiny("finetune:digits", tmp_path, f"--run.start={trained_mae}", "--encoder.adapt=half", report=True) == 0
    said = capsys.readouterr().out
    assert f"28 tensors of the encoder from {trained_mae}/last.pt (mae:digits, step 12); left out: " in said
    assert "new: fc_norm.weight, fc_norm.bias, head.weight, head.bias" in said
    assert "trained: the MLP of the last block and the classifier, 8,810 of 27,946 parameters of the encoder;" in said
    assert "starts from none" not in said


def test_settings_for_a_trained_encoder_ask_for_one_and_those_from_scratch_do_not():
    assert "starts from none (--run.start)" in method_of().startup_note()
    assert method_of("--run.start=x").startup_note() is None
    assert method_of("--optim.layer-decay=None").startup_note() is None


def test_the_classifier_starts_small_where_it_is_told_to():
    for flag, std in (("2e-5", 2e-5), ("None", 0.02)):
        weight = method_of(f"--method.head-std={flag}").encoder.head.weight
        assert float(weight.detach().std()) == pytest.approx(std, rel=0.2)
    kept = method_of("--optim.ema-decay=0.9")
    assert torch.equal(kept.ema.module.head.weight, kept.encoder.head.weight)


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("cls_token", 4), ("pos_embed", 4), ("patch_embed.proj.weight", 4), ("patch_embed.proj.bias", 4),
        ("blocks.0.attn.qkv.weight", 3), ("blocks.1.norm1.weight", 2), ("blocks.1.mlp.fc1.bias", 2),
        ("blocks.2.mlp.fc2.weight", 1), ("fc_norm.weight", 0), ("fc_norm.bias", 0), ("head.weight", 0),
    ],
)  # fmt: skip
def test_layer_decay_of_a_fine_tuned_encoder_is_the_table_worked_out_by_hand(name, power):
    method = method_of("--optim.layer-decay=0.65")
    by_hand = {4: 0.17850625, 3: 0.274625, 2: 0.4225, 1: 0.65, 0: 1.0}  # d^(depth + 1 - i), depth 3
    assert lr_scale(f"encoder.{name}", method, 0.65) == pytest.approx(by_hand[power])
    made = build_optimiser(method, named("finetune:in1k_b16").optim)
    set_lr(made, 2.0)
    found = dict(method.encoder.named_parameters())[name]
    (group,) = [group for group in made.param_groups if any(found is each for each in group["params"])]
    assert group["lr"] == pytest.approx(2 * by_hand[power])
    spared = found.ndim == 1 or name in ("cls_token", "pos_embed")
    assert group["weight_decay"] == (0.0 if spared else 0.05)


@pytest.mark.parametrize(
    ("name", "peak", "last", "steps"),
    [
        ("finetune:in1k_b16", 2e-3, 1e-6, 125_000),
        ("finetune:in1k_b16_paper", 4e-3, 1e-6, 125_000),
        ("finetune:in1k_h14_448", 4e-3, 1e-6, 62_500),
        ("finetune:supmae_b16", 4e-3, 1e-6, 125_000),
        ("finetune:simmim_b16", 5e-3, 1e-6, 62_500),
        ("scratch:in1k_l16", 1.6e-3, 0.0, 62_500),
        ("scratch:deit_s16", 1e-3, 1e-5, 375_000),
    ],
)
def test_rates_of_imagenet_recipes_are_those_of_their_sources(name, peak, last, steps):
    recipe = named(name)
    run = run_length(recipe.optim, Pools(1_280_000, 0, recipe.data.batch, 0))
    assert run.total_steps == steps
    assert learning_rate(run.warmup_steps, run, recipe.optim, recipe.data.batch) == pytest.approx(peak)
    assert learning_rate(run.total_steps, run, recipe.optim, recipe.data.batch) == pytest.approx(last)


def test_semi_vits_last_stage_takes_the_encoder_that_its_fine_tuning_leaves():
    assert named("semi_vit:in1k_10pct_b16").encoder == named("finetune:in1k_b16").encoder


def test_the_sweep_over_blocks_is_figure_9s():
    found = [recipe.encoder.adapt for recipe in members("finetune:in1k_l16_blocks")]
    assert found == ["head", "half", 1, 2, 4, 6, 12, 18, "full"]


@pytest.mark.parametrize("name", ["mae:digits", "simmim:digits", "semi_mae:digits"])
def test_a_masked_branch_refuses_tokens_that_nobody_normed(name):
    with pytest.raises(InputError, match=r"reads normed tokens, and encoder.fc_norm norms none"):
        method_of("--encoder.fc-norm", name=name)


def test_a_fine_tuned_run_goes_home_with_timm_bitwise(trained, tmp_path, monkeypatch, capsys):
    argv = ["export", str(trained("finetune:digits")), "--to", "timm", "--out", str(tmp_path / "home")]
    monkeypatch.setattr(sys, "argv", argv)
    export.main()
    assert "bitwise" in capsys.readouterr().out
