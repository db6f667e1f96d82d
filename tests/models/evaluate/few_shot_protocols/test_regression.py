"""The linear fit against scikit-learn's, and on features whose geometry is known."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from models.evaluate.few_shot_protocols.metric import measured
from models.evaluate.few_shot_protocols.regression import fit


def blobs(n: int, classes: int, apart: float, seed: int = 0, width: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    labels = torch.arange(n) % classes
    return apart * centres[labels] + torch.randn(n, width, generator=g, dtype=torch.float64), labels


@pytest.mark.parametrize("l2", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_fit_is_scikit_learns(l2, classes):
    features, labels = blobs(60, classes, 1.0)
    features = 3 * features + 7
    ours = fit(features, labels, classes, l2, tolerance=1e-9)
    x = features.numpy()
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    theirs = LogisticRegression(C=1 / (len(x) * l2), tol=1e-10, max_iter=10_000).fit(x, labels.numpy())
    probabilities = ours(features).softmax(1).numpy()
    assert np.allclose(probabilities, theirs.predict_proba(x), atol=1e-5 if classes > 2 else 1)
    if classes == 2:  # theirs has one vector for two classes, whose square is twice that of ours apart
        theirs = LogisticRegression(C=2 / (len(x) * l2), tol=1e-10, max_iter=10_000).fit(x, labels.numpy())
        assert np.allclose(probabilities, theirs.predict_proba(x), atol=1e-5)


def test_where_it_starts_does_not_matter():
    features, labels = blobs(60, 3, 1.0)
    far = fit(features[:30], labels[:30], 3, 10.0)
    from_zero, from_far = (fit(features, labels, 3, 0.01, start, 1e-8)(features) for start in (None, far))
    assert torch.allclose(from_zero, from_far, atol=1e-5)


def test_the_unit_of_a_feature_does_not_matter():
    features, labels = blobs(60, 3, 1.0)
    scaled = features * torch.tensor([1.0, 10, 100, 1, 1, 1000])
    one, other = (fit(each, labels, 3, 0.1, tolerance=1e-9)(each) for each in (features, scaled))
    assert torch.allclose(one, other, atol=1e-3)


def test_separable_blobs_are_told_apart_and_random_labels_are_not():
    features, labels = blobs(40, 4, 20.0)
    test, test_labels = blobs(400, 4, 20.0, seed=1)
    assert measured(fit(features, labels, 4, 1e-3)(test), test_labels, "accuracy") == 1.0
    random = torch.randint(0, 4, (400,), generator=torch.Generator().manual_seed(5))
    assert 0.15 < measured(fit(features, labels, 4, 1e-3)(test), random, "accuracy") < 0.35


def test_a_feature_that_never_changes_is_no_division_by_zero():
    features, labels = blobs(20, 2, 20.0)
    features[:, 0] = 3
    assert fit(features, labels, 2, 1e-3)(features).isfinite().all()


def test_a_class_without_images_is_never_the_answer():
    features, labels = blobs(30, 2, 5.0)
    assert int(fit(features, labels, 5, 1e-2)(features).argmax(1).max()) <= 1


def test_it_is_deterministic_and_takes_f32():
    features, labels = blobs(30, 3, 1.0)
    one, two = (fit(features.float(), labels, 3, 0.1).weights for _ in range(2))
    assert torch.equal(one, two)
    assert one.dtype == torch.float64
