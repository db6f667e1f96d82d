"""Mixtures of images against loops over pixels, and the law of what is drawn for them."""

import pytest
import torch

from models.config.resolve import resolve
from models.factory import method_class
from models.method import StepInfo
from models.pseudo_labels import mixup
from models.pseudo_labels.mixup import confident_pairs, mix
from pipeline.batch import Batch, Labelled
from tests.models.pseudo_labels.test_pseudo_label import DOUBLE, SIDE, N, images, slow_mix


def test_mixtures_of_bytes_are_those_of_what_the_encoder_would_see():
    from models.encoder.patches import IMAGENET

    raw = torch.randint(256, (N, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    pairs = confident_pairs(torch.linspace(0.3, 0.9, N))
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET.mean, IMAGENET.std))
    mixed, shares = mix(raw, pairs)
    for i in range(N):
        one, other = ((raw[k] / 255 - mean) / std for k in (i, int(pairs.partners[i])))
        expected, share = slow_mix(one, other, float(pairs.shares[i]), bool(pairs.cut[i]), pairs.centres[i].tolist())
        torch.testing.assert_close(mixed[i], expected, rtol=1e-4, atol=1e-5)
        assert float(shares[i]) == pytest.approx(share, abs=1e-6)
    assert 0 < pairs.cut.sum() < N


def test_pairs_are_a_function_of_the_seed_and_share_by_confidence():
    confidence = torch.rand(50)
    torch.manual_seed(1)
    one = confident_pairs(confidence)
    torch.manual_seed(1)
    two = confident_pairs(confidence)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert sorted(one.partners.tolist()) == list(range(50))
    other = confidence[one.partners]
    torch.testing.assert_close(one.shares * other, (1 - one.shares) * confidence)
    assert mixup.rectangle(torch.tensor([0.0]), torch.tensor([[0.5, 0.5]]), 8, 6).all()
    assert not mixup.rectangle(torch.tensor([1.0]), torch.tensor([[0.5, 0.5]]), 8, 6).any()


def test_labelled_images_are_mixed_with_their_labels(monkeypatch):
    from models.methods import fixmatch

    flags = ["--encoder.width=16", "--encoder.depth=1", "--encoder.heads=2", "--method.mixup=0.8",
             "--method.cutmix=1", "--method.smoothing=0.1"]  # fmt: skip
    recipe = resolve("fixmatch:digits", flags)
    method = method_class(recipe)(recipe, 10).double()
    labelled = Labelled(torch.arange(6), images(6, 4).repeat(1, 1, 2, 2), torch.arange(6))
    drawn = []
    draw = fixmatch.random_pairs
    monkeypatch.setattr(fixmatch, "random_pairs", lambda *a: drawn.append(draw(*a)) or drawn[-1])
    torch.manual_seed(2)
    loss = method(Batch(0, labelled, None), StepInfo(0, labels_only=True)).total
    (pairs,), paper = drawn, 0.0
    one_hot = torch.eye(10, dtype=DOUBLE)
    for i, j in enumerate(pairs.partners.tolist()):
        mixed, shares = mix(labelled.images, pairs, torch.tensor([i]))
        target = shares * one_hot[i] + (1 - shares) * one_hot[j]
        log = method.encoder(mixed)[0].log_softmax(-1)
        paper = paper - ((0.9 * target + 0.1 / 10) * log).sum() / 6
    torch.testing.assert_close(loss, paper, rtol=1e-6, atol=0)
    assert 0 < pairs.cut.sum() < 6


def test_shares_of_random_pairs_follow_beta_and_a_zero_turns_one_of_the_two_off():
    torch.manual_seed(0)
    pairs = mixup.random_pairs(4000, 0.8, 1.0, torch.device("cpu"))
    assert 0.45 < pairs.cut.float().mean() < 0.55
    for part, a in ((pairs.shares[~pairs.cut], 0.8), (pairs.shares[pairs.cut], 1.0)):
        assert float(part.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(part.var()) == pytest.approx(1 / (4 * (2 * a + 1)), rel=0.1)
    assert not mixup.random_pairs(50, 0.8, 0.0, torch.device("cpu")).cut.any()
    assert mixup.random_pairs(50, 0.0, 1.0, torch.device("cpu")).cut.all()
