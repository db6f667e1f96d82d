"""Each method's own forward against its paper's equation, written out in float64 over plain timm forwards."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.bench.baselines import plain_decode, plain_mae, plain_visible_tokens
from models.config.catalogue import catalogue
from models.config.recipe import Recipe
from models.config.resolve import named, resolve
from models.encoder.patches import hidden_from_visible
from models.factory import method_class
from models.method import StepInfo
from pipeline.batch import Batch, Labelled, Unlabelled

CLASSES, PATCHES = 10, 16
LATER, EARLY = StepInfo(100, labels_only=False), StepInfo(0, labels_only=True)
TINY = ["--encoder.width=32", "--encoder.depth=2", "--encoder.heads=2"]


def method_of(name: str, *flags: str):
    torch.manual_seed(0)
    recipe: Recipe = resolve(name, [*TINY, *flags])
    method = method_class(recipe)(recipe, CLASSES).double().train()
    with torch.no_grad():
        for parameter in method.parameters():  # away from zero biases and equal norms
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method, recipe.method


def batch_of(seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)

    def images(n: int) -> torch.Tensor:
        return torch.randn(n, 3, 16, 16, generator=g, dtype=torch.float64)

    def visible(n: int) -> torch.Tensor:
        return torch.rand(n, PATCHES, generator=g).argsort(1)[:, :8].sort(1).values

    labels = torch.randint(0, CLASSES, (4,), generator=g)
    labelled = Labelled(torch.arange(4), images(4), labels, visible(4))
    return Batch(0, labelled, Unlabelled(torch.arange(14), images(14), images(14), visible(14)))


def gradients(loss: torch.Tensor, module: nn.Module) -> dict[str, torch.Tensor | None]:
    names, trained = zip(*((n, p) for n, p in module.named_parameters() if p.requires_grad), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, trained, allow_unused=True), strict=True))


def assert_same(ours: torch.Tensor, paper: torch.Tensor, method: nn.Module) -> None:
    assert torch.allclose(ours, paper, rtol=1e-12)
    a, b = gradients(ours, method), gradients(paper, method)
    largest = max(g.abs().max() for g in b.values() if g is not None)
    for name, gradient in b.items():
        mine = a[name] if a[name] is not None else torch.zeros(())
        other = gradient if gradient is not None else torch.zeros(())
        assert (mine - other).abs().max() <= 1e-9 * max(other.abs().max(), 1e-6 * largest), name


def semi_supervised(method, batch: Batch, threshold: float, lambda_u: float) -> torch.Tensor:
    """L_s + lambda_u L_u with the indicator inside the mean, each view in a forward of its own."""
    labelled, unlabelled, s = batch.labelled, batch.unlabelled, method.settings.pseudo
    with torch.no_grad():
        scores = method.teacher(s.teacher)(unlabelled.weak)
    confidence, classes = scores.softmax(-1).max(-1)
    targets = (scores / s.temperature).softmax(-1) if s.soft else classes  # UDA's, or FixMatch's
    each = F.cross_entropy(method.encoder(unlabelled.strong), targets, reduction="none")
    label = F.cross_entropy(method.encoder(labelled.images), labelled.labels)
    return label + lambda_u * (each * (confidence > threshold)).sum() / len(classes)


def between(method, batch: Batch, share: float) -> float:
    """A threshold that this share of the weak images misses."""
    with torch.no_grad():
        confidence = method.teacher(method.settings.pseudo.teacher)(batch.unlabelled.weak).softmax(-1).amax(-1)
    return float(confidence.quantile(share)) if 0 < share < 1 else share


@pytest.mark.parametrize("drop", ["on", "off"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("teacher", ["self", "ema"])
@pytest.mark.parametrize("name", ["fixmatch:digits", "uda:digits", "semi_mae:digits"])
def test_semi_supervised_methods_are_their_equations_whether_none_some_or_all_pass(name, teacher, share, drop):
    method, settings = method_of(
        name, f"--method.pseudo.drop-rejected={drop}", f"--method.pseudo.teacher={teacher}", "--method.lambda-u=3"
    )
    batch = batch_of()
    method.pseudo.threshold.threshold = threshold = between(method, batch, share)
    loss = method(batch, LATER)
    paper = semi_supervised(method, batch, threshold, settings.lambda_u)
    if name.startswith("semi"):
        u = batch.unlabelled
        paper = paper + settings.mu * plain_mae(method.encoder, method.branch.decoder, u.weak, u.visible)
    assert 0 < int(loss.pseudo_stats.passed.sum()) < 14 or share in (0, 1)
    assert_same(loss.total, paper, method)


@pytest.mark.parametrize("target", ["pixel", "norm_pix"])
@pytest.mark.parametrize("patches", ["hidden", "all"])
def test_mae_is_its_equation(target, patches):
    method, _ = method_of(
        "mae:digits", f"--method.reconstruct.target={target}", f"--method.reconstruct.patches={patches}"
    )
    u = batch_of().unlabelled
    decoder = method.branch.decoder
    if patches == "hidden":
        paper = plain_mae(method.encoder, decoder, u.weak, u.visible, normalise=target == "norm_pix")
    else:
        from models.encoder.patches import patchify

        truth = patchify(u.weak, 4)
        if target == "norm_pix":
            truth = (truth - truth.mean(-1, keepdim=True)) / (truth.var(-1, keepdim=True) + 1e-6).sqrt()
        tokens = plain_visible_tokens(method.encoder, u.weak, u.visible)
        paper = (plain_decode(decoder, tokens, u.visible) - truth).square().mean()
    assert_same(method(batch_of(), LATER).total, paper, method)


def test_supmae_is_its_equation_and_its_head_starts_at_ln_c():
    method, settings = method_of("supmae:digits", "--method.class-weight=0.01", "--method.temperature=10")
    labelled = batch_of().labelled
    loss = method(batch_of(), LATER)
    tokens = plain_visible_tokens(method.encoder, labelled.images, labelled.visible)
    label = F.cross_entropy(method.head(tokens[:, 1:].mean(1)) / 10, labelled.labels)
    paper = plain_mae(method.encoder, method.branch.decoder, labelled.images, labelled.visible) + 0.01 * label
    assert_same(loss.total, paper, method)
    assert float(loss.parts["label"]) == pytest.approx(torch.tensor(CLASSES).log().item(), rel=0.05)
    assert settings.temperature == 10


def test_supervised_is_smoothed_cross_entropy():
    method, _ = method_of("supervised:digits", "--method.smoothing=0.1")
    labelled = batch_of().labelled
    log = method.encoder(labelled.images).log_softmax(-1)
    target = F.one_hot(labelled.labels, CLASSES).double() * 0.9 + 0.1 / CLASSES
    assert_same(method(batch_of(), LATER).total, -(target * log).sum(-1).mean(), method)


def test_in_the_labels_only_phase_everything_has_a_gradient_and_only_labels_a_say():
    method, _ = method_of("semi_mae:digits")
    batch = Batch(0, batch_of().labelled, None)
    found = gradients(method(batch, EARLY).total, method)
    assert all(gradient is not None for gradient in found.values())
    assert all((g == 0).all() for name, g in found.items() if name.startswith("branch."))


def test_the_teacher_gets_no_gradient_and_branches_touch_what_they_should():
    method, _ = method_of("semi_mae:digits", "--method.pseudo.threshold=0", "--method.mu=0")
    found = gradients(method(batch_of(), LATER).total, method)
    assert not any(name.startswith("ema.") for name in found)
    assert all((g == 0).all() for name, g in found.items() if name.startswith("branch."))
    method, _ = method_of("semi_mae:digits")
    pixels = method.branch
    from models.encoder.vit import VisiblePatches, encode

    u = batch_of().unlabelled
    (tokens,) = encode(method.encoder, [VisiblePatches(u.weak, u.visible)])
    found = gradients(pixels(tokens, u.weak, u.visible), method)
    assert found["encoder.head.weight"] is None and found["encoder.blocks.0.attn.qkv.weight"].abs().sum() > 0  # noqa: PT018


@pytest.mark.parametrize("name", ["fixmatch:digits", "semi_mae:digits"])
def test_a_network_that_labels_itself_does_so_with_all_of_its_paths(name):
    method, _ = method_of(name, "--method.pseudo.teacher=self", "--optim.ema-decay=None", "--encoder.drop-path=0.9")
    plain = copy.deepcopy(method.encoder).eval()
    expected = plain(batch_of().unlabelled.weak).argmax(-1)
    assert torch.equal(method(batch_of(), LATER).pseudo_stats.classes, expected)
    assert method.encoder.training
    dropped = [plain.train()(batch_of().unlabelled.weak).argmax(-1) for _ in range(5)]
    assert not all(torch.equal(classes, expected) for classes in dropped)


def test_every_recipe_resolves_and_says_what_it_is():
    names = dict(catalogue())
    assert {"supervised", "fixmatch", "mae", "supmae", "semi_mae"} <= {name.split(":")[0] for name in names}
    for name, line in names.items():
        auto = named(name).encoder.name == "auto"  # that of run.start
        start = ["--encoder.name=vit_small_patch16_224"] if auto else []
        assert resolve(name, start).name == name
        assert len(line) > 20


def test_supmae_hidden_patches_never_reach_the_loss():
    method, _ = method_of("supmae:digits", "--method.reconstruct.target=pixel")
    batch = batch_of()
    hidden = hidden_from_visible(batch.labelled.visible, PATCHES)
    images, visible = batch.labelled.images, batch.labelled.visible
    before = method.pooled(plain_visible_tokens(method.encoder, images, visible), visible)
    poisoned = images.clone()
    cells = poisoned.unflatten(3, (4, 4)).unflatten(2, (4, 4))
    for i, ids in enumerate(hidden):
        for patch in ids:
            cells[i, :, patch // 4, :, patch % 4] = 99.0
    from models.encoder.vit import VisiblePatches, encode

    (tokens,) = encode(method.encoder, [VisiblePatches(poisoned, visible)])
    assert torch.allclose(method.pooled(tokens, visible), before, atol=1e-10)
