"""Semiformer's objective against its equation in float64, what it refuses, and what becomes of its batch norms."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from models import running_stats
from models.checkpoint import save_load
from models.config.resolve import resolve
from models.encoder.patches import hidden_from_visible, patchify
from models.encoder.vit import evaluating
from models.factory import method_class
from models.method import StepInfo
from models.optim.build import build_optimiser
from models.pretrained import load_encoder
from models.running_stats import share_statistics
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.errors import InputError

CLASSES = 10
LATER, EARLY = StepInfo(100, labels_only=False), StepInfo(0, labels_only=True)
TINY = ["--encoder.width=16", "--encoder.depth=3", "--encoder.heads=2", "--method.channels=8"]
DECODER = ["--method.reconstruct.width=16", "--method.reconstruct.heads=2"]


def method_of(name: str, *flags: str):
    torch.manual_seed(0)
    recipe = resolve(f"semiformer:{name}", [*TINY, *(DECODER if "mae" in name else []), *flags])
    method = method_class(recipe)(recipe, CLASSES).double().train()
    with torch.no_grad():
        for tensor in method.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
        for tensor in _statistics(method):
            tensor.add_(0.1 * torch.rand_like(tensor))
    return method


def batch_of() -> Batch:
    g = torch.Generator().manual_seed(0)

    def images(n: int) -> torch.Tensor:
        return torch.randn(n, 3, 16, 16, generator=g, dtype=torch.float64)

    labels = torch.randint(0, CLASSES, (4,), generator=g)
    visible = torch.rand(9, 16, generator=g).argsort(1)[:, :8].sort(1).values
    unlabelled = Unlabelled(torch.arange(9), images(9), images(9), visible)
    return Batch(0, Labelled(torch.arange(4), images(4), labels), unlabelled)


def scores(method, teacher: str, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    network = method.teacher(teacher)
    with torch.no_grad(), evaluating(network):
        return network(batch.unlabelled.weak)


def paper(method, batch: Batch, threshold: float, stream: str) -> torch.Tensor:
    """Both heads' cross-entropies, each halved, the indicator inside the mean; and MAE's mean over hidden patches."""
    labelled, unlabelled, s = batch.labelled, batch.unlabelled, method.settings
    conv, transformer = scores(method, s.pseudo.teacher, batch)
    guesses = {"conv": conv, "transformer": transformer, "fused": conv + transformer}[stream].softmax(-1)
    confidence, classes = guesses.max(-1)
    total = torch.zeros((), dtype=torch.float64)
    for logits in method.encoder(torch.cat([labelled.images, unlabelled.strong])):
        log = logits.log_softmax(-1)
        target = F.one_hot(labelled.labels, CLASSES).double() * (1 - s.smoothing) + s.smoothing / CLASSES
        label = -(target * log[:4]).sum(-1).mean()
        each = -log[4:].gather(1, classes[:, None]).squeeze(1)
        total = total + (label + s.lambda_u * (each * (confidence >= threshold)).mean()) / 2
    if s.mu:
        hidden = hidden_from_visible(unlabelled.visible, 16)
        tokens = method.encoder.visible_tokens(unlabelled.weak, unlabelled.visible)
        predicted = method.branch.mae.decoder(tokens, unlabelled.visible, hidden)
        truth = patchify(unlabelled.weak, 4).gather(1, hidden[..., None].expand(-1, -1, 48))
        total = total + s.mu * (predicted - truth).square().mean()
    return total


@pytest.mark.parametrize("stream", ["conv", "transformer", "fused"])
@pytest.mark.parametrize("teacher", ["self", "ema"])
@pytest.mark.parametrize("name", ["digits", "digits_mae"])
def test_the_objective_and_its_gradients_are_the_equations(name, teacher, stream):
    method, batch = method_of(name, "--method.smoothing=0.1", f"--method.stream={stream}"), batch_of()
    looked = scores(method, teacher, batch)
    with torch.no_grad():  # no class is everyone's guess
        for head, logits in zip(method.teacher(teacher).head.values(), looked, strict=True):
            head.bias.sub_(logits.mean(0))
    conv, transformer = scores(method, teacher, batch)
    chosen = {"conv": conv, "transformer": transformer, "fused": conv + transformer}[stream]
    threshold = float(chosen.softmax(-1).amax(-1).median())
    pseudo = replace(method.settings.pseudo, threshold=threshold, teacher=teacher)
    method.settings = replace(method.settings, pseudo=pseudo)
    method.pseudo.threshold.threshold = threshold
    state = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    loss = method(batch, LATER)
    assert int(loss.pseudo_stats.passed.sum()) == 5
    assert len(loss.pseudo_stats.classes.unique()) > 1
    loss.total.backward()
    ours = {key: p.grad for key, p in method.named_parameters() if p.requires_grad}
    method.zero_grad(set_to_none=True)
    method.load_state_dict(state)
    theirs = paper(method, batch, threshold, stream)
    assert torch.allclose(loss.total, theirs, rtol=1e-12)
    if name.endswith("mae"):  # the running statistics that the masked stem goes by have moved on once, in both
        assert not torch.equal(state["encoder.stem.norm.running_mean"], method.encoder.stem.norm.running_mean)
    theirs.backward()
    for key, p in method.named_parameters():
        if p.requires_grad:
            assert torch.allclose(ours[key], p.grad, atol=1e-9 * float(1 + p.grad.abs().max())), key


def test_it_is_judged_by_the_summed_logits_of_both_heads_in_eval_mode():
    method, batch = method_of("digits", "--optim.ema-decay=None", "--method.pseudo.teacher=self"), batch_of()
    before = method.encoder.stem.norm.running_mean.clone()
    scores = method.logits(batch.unlabelled.weak)
    assert torch.equal(method.encoder.stem.norm.running_mean, before)
    conv, transformer = method.encoder.eval()(batch.unlabelled.weak)
    assert torch.allclose(scores, conv + transformer)


@pytest.mark.parametrize("name", ["digits", "digits_mae"])
def test_in_the_labels_only_phase_all_but_the_decoder_learns_from_labels(name):
    method = method_of(name)
    loss = method(Batch(0, batch_of().labelled, None), EARLY)
    loss.total.backward()
    inactive_params = {id(p) for p in method.inactive_params(EARLY)}
    for key, p in method.named_parameters():
        if p.requires_grad:
            assert p.grad is not None
            assert (p.grad.abs().max() == 0) == (id(p) in inactive_params), key
    assert bool(inactive_params) == name.endswith("mae")


def test_only_the_masked_branch_reads_a_mask():
    for name, reads in (("digits", False), ("digits_mae", True), ("in1k_10pct", False), ("in1k_10pct_mae", True)):
        recipe = resolve(f"semiformer:{name}", [])
        assert method_class(recipe).needs(recipe).unlabelled_visible == reads
        assert (recipe.method.mu > 0) == reads


def test_every_strong_view_goes_through_the_network_and_dropping_rejected_ones_is_refused():
    method, batch, seen = method_of("digits", "--method.pseudo.threshold=1"), batch_of(), []
    method.encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    assert int(method(batch, LATER).pseudo_stats.passed.sum()) == 0
    assert seen == [4 + 9]
    with pytest.raises(InputError, match="BatchNorm2d, which mixes the images of a batch"):
        method_of("digits", "--method.pseudo.drop-rejected=on")


def test_a_run_says_who_labels_and_that_no_strong_view_is_left_out():
    said = method_of("digits").startup_note()
    assert said.startswith("the convolutional head labels both streams; every strong view is encoded, rejected or not:")
    asked = method_of("digits", "--method.stream=fused", "--method.pseudo.drop-rejected=off").startup_note()
    assert asked == "the sum of both heads' logits labels both streams"


def test_mixed_strong_views_learn_too():
    method = method_of("digits", "--method.pseudo.mixup", "--method.pseudo.threshold=0").float()
    images = torch.randint(0, 256, (22, 3, 16, 16), dtype=torch.uint8)
    labelled = Labelled(torch.arange(4), images[:4], batch_of().labelled.labels)
    loss = method(Batch(0, labelled, Unlabelled(torch.arange(9), images[4:13], images[13:])), LATER)
    assert loss.total.isfinite()
    assert loss.parts["pseudo"] > 0


REFUSED = {
    "a ViT's name": ("--encoder.name=vit_small_patch16_224 --encoder.width=None --encoder.depth=None "
                     "--encoder.heads=None", "set semiformer_small, or None and encoder.width"),
    "mean pooling": ("--encoder.pool=avg", "encoder.pool is avg, which a Semiformer does not have; leave it at token"),
    "checkpointing": ("--encoder.checkpointing", "encoder.checkpointing is True"),
    "layer scale": ("--encoder.layer-scale=0.1", "encoder.layer_scale is 0.1"),
    "relative positions": ("--encoder.position=irpe", "encoder.position is irpe; a Semiformer has none, learned or"),
    "a patch without a stem": ("--encoder.patch=2", "encoder.patch is 2, and the stem is one for patches of 4, 8 or"),
    "images cut by patches": ("--data.size=18", "patches of 4 pixels do not divide images of 18"),
    "layer decay": ("--optim.layer-decay=0.7", "optim.layer_decay needs one stack of layers"),
    "sharding": ("--run.shard", "drop --run.shard"),
    "heads": ("--encoder.heads=3", "heads divide the width, got width 16 and 3 heads"),
    "one stage": ("--encoder.depth=1", "encoder.depth is 1; the first stage is uncoupled"),
    "channels": ("--method.channels=6", "method.channels is 6; a bottleneck has a quarter"),
    "a teacher that is not there": ("--optim.ema-decay=None", "teacher ema needs a moving average"),
    "windows": ("--data.mask.kind=window", "reads masks of kind random, block, grid, unit, got window"),
    "mask tokens": ("--method.reconstruct.encoder-mask-tokens", "a Semiformer's masked branch sees visible patches"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_semiformer_cannot_do_is_refused_in_a_line(what):
    flags, said = REFUSED[what]
    with pytest.raises(InputError) as refusal:
        method_of("digits_mae", *flags.split())
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("flags", ["--encoder.patch=8", "--encoder.position=learned", "--encoder.position=none",
                                   "--encoder.drop-path=0.2", "--data.mask.kind=grid --data.mask.ratio=0.75",
                                   "--method.no-double-class-token"])  # fmt: skip
def test_what_it_can_do_is_not(flags):
    method = method_of("digits_mae", *flags.split())
    assert method.logits(batch_of().unlabelled.weak).shape == (9, CLASSES)


def test_tokens_and_vectors_do_not_decay_and_everything_else_does():
    method = method_of("digits", "--encoder.position=learned", "--optim.ema-decay=None", "--method.pseudo.teacher=self")
    groups = build_optimiser(method, resolve("semiformer:digits", []).optim).param_groups
    still = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    for key, p in method.named_parameters():
        assert (id(p) in still) == (p.ndim < 2 or key.endswith(("cls_token", "pos_embed"))), key


def test_a_run_starts_from_the_encoder_of_another_with_or_without_its_classifier(tmp_path):
    trained = method_of("digits")
    save_load.save(tmp_path, {"method": trained.state_dict()})
    torch.manual_seed(1)
    fresh = method_class(r := resolve("semiformer:digits", TINY))(r, CLASSES)
    assert "new: none" in load_encoder(fresh, tmp_path / "last.pt")
    held = trained.ema.module.state_dict()
    assert all(torch.equal(tensor, held[name].to(tensor.dtype)) for name, tensor in fresh.encoder.state_dict().items())
    other = method_class(r)(r, CLASSES + 1)
    said = load_encoder(other, tmp_path / "last.pt")
    assert said.count("head.") == 4


def test_pictures_show_predictions_of_the_masked_stem():
    method, unlabelled = method_of("digits_mae"), batch_of().unlabelled
    predicted = method.branch.predict(method.encoder, unlabelled.weak, unlabelled.visible)
    assert predicted.shape == (9, 8, 48)
    assert method.training
    with evaluating(method):
        tokens = method.encoder.visible_tokens(unlabelled.weak, unlabelled.visible)
        expected = method.branch.mae.decoder(tokens, unlabelled.visible, hidden_from_visible(unlabelled.visible, 16))
    assert torch.allclose(predicted.double(), expected, atol=1e-5)


def test_every_rank_takes_the_main_ranks_running_statistics_and_nothing_else(monkeypatch):
    method = method_of("digits")
    held = [b.clone() for b in method.encoder.buffers() if b.is_floating_point()]
    weights = [p.clone() for p in method.encoder.parameters()]
    share_statistics(method.encoder)  # alone: nothing happens
    assert all(torch.equal(a, b) for a, b in zip(held, _statistics(method), strict=True))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(running_stats.dist, "broadcast", lambda message, source: message.mul_(2).add_(source))
    share_statistics(method.encoder)
    assert all(torch.equal(2 * a, b) for a, b in zip(held, _statistics(method), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, method.encoder.parameters(), strict=True))


def _statistics(method) -> list[torch.Tensor]:
    return [b for b in method.encoder.buffers() if b.is_floating_point()]
