"""Pseudo-labels and their loss against loops over images in float64, with every strong view encoded and with few."""

import math

import pytest
import torch
from torch import nn

from models.config.resolve import resolve
from models.encoder.vit import FullImages, SelectedImages, Size, build_encoder, classify, encode
from models.factory import method_class
from models.method import StepInfo
from models.pseudo_labels.mixup import confident_pairs
from models.pseudo_labels.pseudo_label import PseudoLabels, why_all_encoded
from models.pseudo_labels.settings import Pseudo
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.errors import InputError

CLASSES, N, SIDE, DOUBLE = 4, 9, 8, torch.float64


def images(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, SIDE, SIDE, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def setting(**settings) -> tuple[nn.Module, PseudoLabels, torch.Tensor, Unlabelled]:
    """A tiny encoder, pseudo-labels, the teacher's scores, the images."""
    torch.manual_seed(0)
    vit = build_encoder(Size(16, 1, 2), image_size=SIDE, patch=4, classes=CLASSES).to(DOUBLE)
    nn.init.normal_(vit.head.weight, std=0.5)
    scores = 2 * torch.randn(N, CLASSES, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    return vit, PseudoLabels(Pseudo(**settings), CLASSES, vit).double(), scores, unlabelled()


def unlabelled() -> Unlabelled:
    return Unlabelled(torch.arange(N), images(N, 2), images(N, 3))


def ours(
    vit: nn.Module, pseudo: PseudoLabels, scores: torch.Tensor, unlabelled: Unlabelled
) -> tuple[torch.Tensor, int]:
    """The loss, and how many strong views were encoded for it."""
    targets = pseudo(scores, unlabelled)
    (logits,) = classify(vit, encode(vit, [targets.strong]))
    return pseudo.loss(logits, targets), len(logits)


def cross_entropy(logits: torch.Tensor, target: list[float], smoothing: float) -> torch.Tensor:
    """Of one image: logits [C]."""
    log, total = logits - logits.exp().sum().log(), torch.zeros((), dtype=logits.dtype)
    for c, t in enumerate(target):
        total = total - ((1 - smoothing) * t + smoothing / CLASSES) * log[c]
    return total


def softmax(scores: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(s / temperature) for s in scores]
    return [p / sum(powers) for p in powers]


def slow_loss(vit: nn.Module, s: Pseudo, scores: torch.Tensor, strong: torch.Tensor, pairs=None) -> torch.Tensor:
    """One image after the other; fixed threshold."""
    weights, targets = [], []
    for row in scores.tolist():
        confidence = softmax(row)
        weights.append(float(max(confidence) >= s.threshold))
        hard = [float(c == row.index(max(row))) for c in range(CLASSES)]
        targets.append(softmax(row, s.temperature) if s.soft else hard)
    total = 0.0
    for i in range(N):
        image, target, weight = strong[i], targets[i], weights[i]
        if pairs is not None:
            j = int(pairs.partners[i])
            confidences = [max(softmax(scores[k].tolist())) for k in (i, j)]
            share = confidences[0] / sum(confidences)
            image, share = slow_mix(strong[i], strong[j], share, bool(pairs.cut[i]), pairs.centres[i].tolist())
            target = [share * a + (1 - share) * b for a, b in zip(targets[i], targets[j], strict=True)]
            weight = float(max(confidences) >= s.threshold)
        total = total + weight * cross_entropy(vit(image[None])[0], target, s.smoothing)
    return total / N


def slow_mix(one, other, share: float, cut: bool, centre: list[float]) -> tuple[torch.Tensor, float]:
    if not cut:
        return share * one + (1 - share) * other, share
    mixed, taken = one.clone(), 0
    half = int(SIDE * math.sqrt(1 - share)) // 2
    for y in range(SIDE):
        for x in range(SIDE):
            if all(int(c * SIDE) - half <= at < int(c * SIDE) + half for c, at in zip(centre, (y, x), strict=True)):
                mixed[:, y, x] = other[:, y, x]
                taken += 1
    return mixed, 1 - taken / SIDE**2


def assert_same(one: torch.Tensor, other: torch.Tensor, vit: nn.Module) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=0)
    parameters = list(vit.parameters())
    for a, b in zip(*(torch.autograd.grad(loss, parameters) for loss in (one, other)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


OPTIONS = {
    "hard": {},
    "smoothed": {"smoothing": 0.1},
    "soft": {"soft": True},
    "sharpened": {"soft": True, "temperature": 0.4, "smoothing": 0.2},
    "none passes": {"threshold": 1.0},
}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_loss_is_the_equation_and_leaving_out_rejected_images_is_exact(options, mixed, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "models.pseudo_labels.pseudo_label.confident_pairs", lambda c: drawn.append(confident_pairs(c)) or drawn[-1]
    )
    *_, third, second, _ = setting()[2].softmax(-1).amax(-1).sort().values.tolist()
    options = {"threshold": (third + second) / 2, "mixup": mixed} | options  # two pass, or up to four mixtures
    losses, counts = [], []
    for drop in ("on", "off"):
        vit, *rest = setting(drop_rejected=drop, **options)
        torch.manual_seed(5)
        loss, count = ours(vit, *rest)
        paper = slow_loss(vit, Pseudo(**options), rest[1], rest[2].strong, drawn[-1] if mixed else None)
        assert_same(loss, paper, vit)
        losses.append(loss), counts.append(count)
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    assert counts[1] == N
    assert counts[0] == 0 if options["threshold"] == 1 else 0 < counts[0] < N


def test_softmatch_weighs_every_image_and_aligns_for_its_weights_alone():
    vit, pseudo, scores, unlabelled = setting(kind="softmatch", align="uniform", align_labels=False)
    for _ in range(2):
        targets = pseudo(scores, unlabelled)
        for part in (pseudo.threshold, pseudo.alignment):
            part.after_step()
    mean, variance = float(pseudo.threshold.mean), float(pseudo.threshold.variance)
    shares = [sum(softmax(row)[c] for row in scores.tolist()) / N for c in range(CLASSES)]
    loss, count = ours(vit, pseudo, scores, unlabelled)
    paper = 0.0
    for i, row in enumerate(scores.tolist()):
        tilted = [p * (1 / CLASSES + 1e-6) / (m + 1e-6) for p, m in zip(softmax(row), shares, strict=True)]
        below = min(0.0, max(tilted) / sum(tilted) - mean)
        hard = [float(c == row.index(max(row))) for c in range(CLASSES)]
        logits = vit(unlabelled.strong[i : i + 1])[0]
        paper = paper + math.exp(-(below**2) / (2 * variance / 4)) * cross_entropy(logits, hard, 0.0) / N
    assert_same(loss, paper, vit)
    assert count == N
    assert isinstance(targets.strong, FullImages)


def test_aligned_labels_are_those_of_the_tilted_guesses():
    _, pseudo, scores, unlabelled = setting(align="uniform")
    scores = scores + torch.tensor([3.0, 0, 0, 0])
    before = pseudo(scores, unlabelled).stats.classes
    pseudo.alignment.after_step()
    after = pseudo(scores, unlabelled).stats.classes
    assert (before == 0).sum() > (after == 0).sum() > 0
    _, plain, *_ = setting(align="uniform", align_labels=False)
    plain(scores, unlabelled), plain.alignment.after_step()
    assert torch.equal(plain(scores, unlabelled).stats.classes, before)


def test_images_are_left_out_where_that_is_exact_and_where_it_is_not_a_recipe_that_insists_is_refused():
    plain, mixing = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), nn.Sequential(nn.BatchNorm1d(2))
    for way in ("auto", "on"):
        assert why_all_encoded(Pseudo(drop_rejected=way), plain, rejects=True) is None
    assert why_all_encoded(Pseudo(drop_rejected="off"), plain, rejects=True)
    assert "BatchNorm1d" in why_all_encoded(Pseudo(), mixing, rejects=True)
    assert "softmatch gives" in why_all_encoded(Pseudo(kind="softmatch"), plain, rejects=False)
    with pytest.raises(InputError, match="mixes the images of a batch, so none can be left out"):
        why_all_encoded(Pseudo(drop_rejected="on"), mixing, rejects=True)
    with pytest.raises(InputError, match="every image a weight"):
        setting(kind="softmatch", drop_rejected="on")
    assert isinstance(setting()[1](*setting()[2:]).strong, SelectedImages)


def test_settings_that_say_nothing_are_refused():
    with pytest.raises(InputError, match="fairness is FreeMatch's"):
        setting(fairness=0.1)
    with pytest.raises(InputError, match="these are hard"):
        setting(temperature=0.5)
    setting(kind="freematch", fairness=0.1)
    setting(soft=True, temperature=0.5)


@pytest.mark.parametrize("name", ["fixmatch:digits", "semi_mae:digits"])
def test_methods_remember_after_each_step_and_only_then(name):
    flags = ["--encoder.width=16", "--encoder.depth=1", "--encoder.heads=2", "--method.pseudo.kind=adamatch",
             "--method.pseudo.align=predictions"]  # fmt: skip
    recipe = resolve(name, flags)
    method = method_class(recipe)(recipe, 10)
    method.set_dataset_size(20, 20)
    g = torch.Generator().manual_seed(0)
    views = [torch.randint(256, (n, 3, 16, 16), dtype=torch.uint8, generator=g) for n in (4, 8, 8)]
    visible = torch.arange(8).expand(8, -1)
    labelled = Labelled(torch.arange(4), views[0], torch.arange(4))
    batch = Batch(0, labelled, Unlabelled(torch.arange(8), views[1], views[2], visible))
    threshold, alignment = method.pseudo.threshold, method.pseudo.alignment
    method(batch, StepInfo(10, labels_only=False))
    assert float(threshold.confidence) == 1
    method.after_step(10)
    assert 0.1 <= float(threshold.confidence) < 1
    assert not torch.equal(alignment.mean, alignment.target)
    held = {key: tensor.clone() for key, tensor in method.pseudo.state_dict().items()}
    method(batch, StepInfo(0, labels_only=True))
    method.after_step(0)
    assert all(torch.equal(tensor, held[key]) for key, tensor in method.pseudo.state_dict().items())
