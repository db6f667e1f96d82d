"""Losses of classes with few labels: against closed forms, slow loops, torch's and scikit-learn's own weights."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from models.config.resolve import resolve
from models.factory import method_class
from models.losses import ClassBalance, label_loss, pseudo_label_loss
from models.method import StepInfo
from models.methods.balance import Balance, build_balance
from pipeline.batch import Batch, Labelled, Unlabelled
from pipeline.errors import InputError

COUNTS = torch.tensor([50, 20, 5, 1])
DOUBLE = torch.float64
LATER = StepInfo(100, labels_only=False)


def balance(**named) -> ClassBalance:
    made = ClassBalance(4, **named).double()
    made.set_label_counts(COUNTS)
    return made


def slow(logits, targets, smoothing, tau, weights) -> list[float]:
    """Menon et al. 2021, eq. 10, an image and a class at a time; targets are distributions."""
    shares, losses = [n / 76 for n in (50, 20, 5, 1)], []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        scores = [math.exp(f + tau * math.log(pi)) for f, pi in zip(row, shares, strict=True)]
        smooth = [(1 - smoothing) * q + smoothing / 4 for q in target]
        losses.append(-sum(w * q * math.log(e / sum(scores)) for w, q, e in zip(weights, smooth, scores, strict=True)))
    return losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize(("tau", "beta"), [(1.0, None), (0.5, None), (None, 1.0), (None, 0.9)])
def test_losses_are_those_of_a_slow_loop(tau, beta, kind, smoothing):
    logits = torch.randn(6, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3, 3, 0])
    targets = F.one_hot(labels, 4).double()
    if kind == "soft":
        targets = 0.7 * targets + 0.3 * targets.flip(0)
    each = [1 / n if beta == 1 else (1 - (beta or 0)) / (1 - (beta or 0) ** n) for n in COUNTS.tolist()]
    scale = 76 / sum(n * w for n, w in zip(COUNTS.tolist(), each, strict=True))
    weights = [1.0] * 4 if beta is None else [w * scale for w in each]
    expected = slow(logits, targets, smoothing, tau or 0.0, weights)
    terms, given = balance(tau=tau, beta=beta), labels if kind == "hard" else targets
    assert label_loss(logits, given, smoothing, terms).item() == pytest.approx(sum(expected) / 6, rel=1e-6)
    sample = torch.tensor([1.0, 0, 0.5, 1, 1, 0])
    found = pseudo_label_loss(logits, given, 9, sample, smoothing, terms).item()
    slow_sum = sum(w * e for w, e in zip(sample.tolist(), expected, strict=True))
    assert found == pytest.approx(slow_sum / 9, rel=1e-6)


def test_tau_1_is_the_balanced_softmax():
    """Ren et al. 2020, eq. 3: the softmax of n_c exp(f_c)."""
    logits, labels = torch.randn(5, 4, dtype=DOUBLE), torch.tensor([0, 1, 2, 3, 1])
    weighted = COUNTS * logits.exp()
    expected = -(weighted / weighted.sum(1, keepdim=True)).log().gather(1, labels[:, None]).mean()
    assert label_loss(logits, labels, 0.0, balance(tau=1.0)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_beta_1_is_scikit_learns_balanced_and_its_mean_over_the_labels_is_1():
    labels = [c for c, n in enumerate(COUNTS.tolist()) for _ in range(n)]
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert balance(beta=1.0).weights.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    for beta in (0.0, 0.9, 0.999, 1.0):
        assert balance(beta=beta).weights[labels].mean().item() == pytest.approx(1, rel=1e-6)
    assert balance(beta=0.0).weights.tolist() == [1.0] * 4
    assert balance(beta=0.99999).weights.tolist() == pytest.approx(expected.tolist(), rel=1e-3)


def test_with_equal_counts_or_tau_0_the_loss_is_the_plain_one():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 1])
    plain = label_loss(logits, labels, 0.1)
    assert torch.equal(plain, F.cross_entropy(logits, labels, label_smoothing=0.1))
    for named in ({"tau": 1.0}, {"beta": 1.0}, {"beta": 0.9}):
        terms = ClassBalance(4, **named)
        terms.set_label_counts(torch.full((4,), 7))
        assert label_loss(logits, labels, 0.1, terms).item() == pytest.approx(plain.item(), rel=1e-6)
    terms = ClassBalance(4, tau=0.0)
    terms.set_label_counts(COUNTS)
    assert label_loss(logits, labels, 0.1, terms).item() == pytest.approx(plain.item(), rel=1e-6)


def test_the_network_itself_scores_classes_alike():
    """Of images that tell nothing the adjusted loss is least where all scores are equal, the plain one at log pi."""
    labels = torch.tensor([c for c, n in enumerate(COUNTS.tolist()) for _ in range(n)])
    for terms, expected in ((balance(tau=1.0), torch.zeros(4)), (None, (COUNTS / 76).log())):
        scores = (expected - expected.mean()).double().requires_grad_()
        label_loss(scores.expand(76, 4), labels, 0.0, terms).backward()
        assert scores.grad.abs().max() < 1e-7


def test_a_class_without_labels_is_said_and_finite():
    terms = {name: ClassBalance(3, **{name: 1.0}) for name in ("tau", "beta")}
    for each in terms.values():
        each.set_label_counts(torch.tensor([6, 0, 2]))
        assert "from 0 to 6 known labels a class, and 1 without any, which count as if they had one" in each.describe()
        assert label_loss(torch.zeros(3, 3), torch.tensor([0, 1, 2]), 0.1, each).isfinite()
    terms["tau"].set_label_counts(torch.tensor([6, 1, 2]))
    assert "without" not in terms["tau"].describe()
    assert terms["tau"].offsets.tolist() == pytest.approx([math.log(n / 9) for n in (6, 1, 2)])


def test_counts_are_asked_for_and_compared():
    terms = ClassBalance(3, tau=1.0)
    with pytest.raises(InputError, match="call set_label_counts"):
        label_loss(torch.zeros(1, 3), torch.tensor([0]), 0.0, terms)
    with pytest.raises(InputError, match=r"label counts of 3 classes, got a tensor of \(2,\)"):
        terms.set_label_counts(torch.tensor([1, 2]))
    assert terms.state_dict() == {}


@pytest.mark.parametrize(
    ("settings", "unlabelled", "message"),
    [
        (Balance(tau=0.5), True, "method.balance.tau is of balance logit_adjustment, and .*kind is none"),
        (Balance("weights", tau=0.5), True, "balance.tau is of balance logit_adjustment"),
        (Balance("logit_adjustment", beta=0.9), True, "balance.beta is of balance weights"),
        (Balance(unlabelled="uniform"), True, "unlabelled is uniform, and method.balance.kind is none"),
        (Balance("weights", unlabelled="uniform"), False, "this method has no loss of unlabelled images"),
    ],
)
def test_settings_without_an_effect_are_refused(settings, unlabelled, message):
    with pytest.raises(InputError, match=message):
        build_balance(settings, 4, unlabelled=unlabelled)


def test_settings_with_an_effect_are_not():
    assert build_balance(Balance(), 4) is None
    assert build_balance(Balance("logit_adjustment", tau=0.5, unlabelled="uniform"), 4).tau == 0.5
    assert build_balance(Balance("weights", beta=0.9), 4, unlabelled=False).beta == 0.9


def batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (n, 3, 16, 16), generator=g, dtype=torch.uint8) for n in (4, 6, 6)]
    visible = torch.arange(8).expand(6, 8)
    labelled = Labelled(torch.arange(4), images[0], torch.tensor([0, 1, 2, 9]), None)
    return Batch(0, labelled, Unlabelled(torch.arange(6), images[1], images[2], visible))


def loss_of(name: str, *flags: str):
    torch.manual_seed(0)
    size = ["--encoder.width=32", "--encoder.depth=1", "--encoder.heads=2", "--method.pseudo.threshold=0"]
    if name.startswith("semiformer"):
        size = ["--method.channels=16", "--encoder.depth=2", "--method.pseudo.threshold=0"]
    size = size[:-1] if name.startswith(("supervised", "finetune")) else size
    recipe = resolve(name, [*size, *flags])
    method = method_class(recipe)(recipe, 10).train()
    method.set_dataset_size(6, 6)
    method.set_label_counts(torch.tensor([40, 30, 20, 10, 5, 5, 2, 1, 1, 1]))
    torch.manual_seed(1)
    return method, {name: float(part) for name, part in method(batch(), LATER).parts.items()}


@pytest.mark.parametrize("name", ["supervised", "finetune", "fixmatch", "uda", "semi_vit", "semi_mae", "semiformer"])
def test_every_method_adjusts_its_labelled_and_pseudo_labelled_loss_and_nothing_else(name):
    kind = "--method.balance.kind"
    (plain, before), (method, after) = (loss_of(f"{name}:digits", *f) for f in ([], [f"{kind}=logit_adjustment"]))
    assert plain.balance is None
    assert plain.state_dict().keys() == method.state_dict().keys()
    assert method.balance.offsets.tolist()[0] == pytest.approx(math.log(40 / 115))
    changed = {part for part in before if before[part] != after[part]}
    assert changed == set(before) & {"label", "pseudo"}
    _, same = loss_of(f"{name}:digits", f"{kind}=logit_adjustment", "--method.balance.tau=0")
    assert same == pytest.approx(before, rel=1e-6)
    if "pseudo" in before:
        _, uniform = loss_of(f"{name}:digits", f"{kind}=logit_adjustment", "--method.balance.unlabelled=uniform")
        assert uniform["pseudo"] == before["pseudo"]
        assert uniform["label"] == after["label"] != before["label"]


def test_fixmatch_with_weights_is_its_equation():
    method, parts = loss_of("fixmatch:digits", "--method.balance.kind=weights", "--method.pseudo.teacher=self")
    held, weights = batch(), method.balance.weights
    encoder = method.encoder.eval()
    from models.encoder.vit import eval_logits

    label = F.cross_entropy(eval_logits(encoder, held.labelled.images), held.labelled.labels, weights, reduction="sum")
    likely = eval_logits(encoder, held.unlabelled.weak).argmax(1)
    pseudo = F.cross_entropy(eval_logits(encoder, held.unlabelled.strong), likely, weights, reduction="sum")
    assert parts == pytest.approx({"label": float(label) / 4, "pseudo": float(pseudo) / 6}, rel=1e-5)
