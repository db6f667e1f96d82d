"""The linear probe against scikit-learn, and the evaluator."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from models.evaluate.evaluation_log import read_evaluations
from models.evaluate.linear_probe import fit_probe, probe_hits
from pipeline.errors import InputError


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features f32 [n, 12] and labels i64 [n] of 5 classes that overlap."""
    centres = torch.randn(5, 12, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % 5
    return centres[labels] + 1.2 * torch.randn(n, 12, generator=torch.Generator().manual_seed(seed)), labels


def standardised(features: Tensor, by: Tensor) -> np.ndarray:
    x, known = features.double().numpy(), by.double().numpy()
    return (x - known.mean(0)) / np.sqrt(known.var(0) + 1e-5)


@pytest.mark.parametrize(("l2", "c"), [(None, 1.0), (0.05, 1 / (200 * 0.05))])
def test_it_is_scikit_learns(l2, c):
    (known, labels), (queries, wanted) = blobs(200, 0), blobs(150, 1)
    probe = fit_probe(5 * known + 3, labels, l2)
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(standardised(known, known), labels.numpy())
    likely = theirs.predict_proba(standardised(queries, known))
    assert np.allclose(probe(5 * queries + 3).softmax(1).numpy(), likely, atol=5e-3)
    right = int((likely.argmax(1) == wanted.numpy()).sum())
    assert probe_hits(probe, 5 * queries + 3, wanted) == right
    assert 50 < right < 150


def test_two_fits_are_the_same_to_the_bit_and_leave_the_features_alone():
    known, labels = blobs(100, 0)
    before = known.clone()
    one, two = fit_probe(known, labels), fit_probe(known, labels)
    assert torch.equal(one.weights, two.weights)
    assert torch.equal(known, before)


def test_a_class_that_was_never_shown_is_not_found():
    known, labels = blobs(100, 0)
    shown = labels < 4
    assert probe_hits(fit_probe(known[shown], labels[shown]), known[~shown], labels[~shown]) == 0


def test_a_run_is_measured_with_the_labels_that_it_may_use(trained, asked):
    folder = trained("mae:digits")
    asked("linear_probe", folder, "--batch", 64)
    values = read_evaluations(folder)[-1]["values"]
    assert (values["images"], values["known"]) == (300, 50)
    asked("linear_probe", folder, "--split", "all")
    more = read_evaluations(folder)[-1]["values"]
    assert more["known"] == 1197
    assert 0.1 < values["probe"] < more["probe"] < 1


@pytest.mark.parametrize(("flags", "said"), [
    (["--data.file", "train.beton"], "would be compared with itself"),
    (["--l2", "0"], "--l2 is 0, expected above 0"),
    (["--split", "6-per-class"], "no split '6-per-class'"),
])  # fmt: skip
def test_wrong_input_is_said_in_a_line(flags, said, trained, asked):
    with pytest.raises(InputError, match=said):
        asked("linear_probe", trained("mae:digits"), *flags)
