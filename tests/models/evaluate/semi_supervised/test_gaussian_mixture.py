"""The mixture against scikit-learn: GaussianMixture without labels, discriminant analysis and naive Bayes with all."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from torch.nn.functional import normalize

from models.evaluate.few_shot_protocols.shots import Shots
from models.evaluate.semi_supervised import gaussian_mixture as module
from models.evaluate.semi_supervised.gaussian_mixture import Mixture, fit, gaussian_mixture, principal
from models.evaluate.semi_supervised.problem import Problem, one_hot

CLASSES, NOTHING = 3, torch.empty(0, dtype=torch.int64)


@pytest.fixture(scope="module")
def clusters():
    """300 images f64 [300, 4] of three classes with unlike spreads, and their labels."""
    rng, labels = np.random.default_rng(0), np.arange(300) % CLASSES
    means, spreads = 3 * rng.normal(size=(CLASSES, 4)), rng.uniform(0.5, 2, size=(CLASSES, 4))
    return torch.from_numpy(means[labels] + spreads[labels] * rng.normal(size=(300, 4))), torch.from_numpy(labels)


@pytest.mark.parametrize("kind", ["tied", "diag"])
def test_without_labels_it_is_scikit_learns(clusters, kind, monkeypatch):
    x, labels = clusters
    monkeypatch.setattr(module, "TOLERANCE", 0.0)
    means = torch.stack([x[labels == c][:4].mean(0) for c in range(CLASSES)])
    whole = x.var(0, correction=0)
    first = Mixture(kind, torch.full((CLASSES,), 1 / 3, dtype=torch.float64), means,
                    torch.diag(whole) if kind == "tied" else whole.expand(CLASSES, -1))  # fmt: skip
    found, over = fit(x, NOTHING, torch.empty(0, CLASSES, dtype=torch.float64), kind, first, iterations=20)
    assert not over
    precisions = torch.diag(1 / whole) if kind == "tied" else (1 / whole).expand(CLASSES, -1)
    theirs = GaussianMixture(CLASSES, covariance_type=kind, tol=0, reg_covar=module.RIDGE * float(whole.mean()),
                             max_iter=20, weights_init=np.full(CLASSES, 1 / 3), means_init=means.numpy(),
                             precisions_init=precisions.numpy())  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(x.numpy())
    np.testing.assert_allclose(found.weights, theirs.weights_, rtol=1e-6)
    np.testing.assert_allclose(found.means, theirs.means_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.covariance, theirs.covariances_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.posterior(x), theirs.predict_proba(x.numpy()), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["tied", "diag"])
def test_with_all_labels_it_is_discriminant_analysis_or_naive_bayes(clusters, kind, monkeypatch):
    x, labels = clusters
    monkeypatch.setattr(module, "RIDGE", 0.0)
    found, over = fit(x, torch.arange(300), one_hot(labels, CLASSES).double(), kind)
    assert over
    theirs = LinearDiscriminantAnalysis(solver="lsqr") if kind == "tied" else GaussianNB(var_smoothing=0)
    theirs.fit(x.numpy(), labels.numpy())
    np.testing.assert_allclose(found.posterior(x), theirs.predict_proba(x.numpy()), rtol=1e-5, atol=1e-9)


def test_labels_stay_what_they_are_in_every_step(clusters):
    """A labelled image that lies in the midst of another class pulls its own class's mean there, and nothing else."""
    x, labels = clusters
    wrong = labels.clone()
    wrong[0] = 1
    rows = torch.arange(30)
    found, other = (fit(x, rows, one_hot(each[rows], CLASSES).double(), "diag")[0] for each in (labels, wrong))
    assert float((found.means[0] - other.means[0]).norm()) > 0
    assert float(found.posterior(x)[0, 0]) > 0.5


def test_a_class_without_anything_has_no_share(clusters):
    x, labels = clusters
    rows = torch.arange(30)
    for kind in module.COVARIANCES:
        found, _ = fit(x, rows, one_hot(labels[rows], CLASSES + 1).double(), kind)
        assert (found.posterior(x)[:, CLASSES] == 0).all()
        assert found.posterior(x).isfinite().all()


def test_principal_components_are_scikit_learns():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).float()
    theirs = PCA(4, svd_solver="full").fit_transform(normalize(x.double(), dim=1).numpy())
    found = principal(x)(x, 4).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(theirs), atol=1e-6)


def test_unlabelled_images_move_the_boundary_to_where_the_gap_is():
    """Two long stripes in the plane, one label each, shifted: the border between the labels cuts across both."""
    rng = np.random.default_rng(0)
    along, truth = rng.uniform(-3, 3, 400), np.arange(400) % 2
    x = np.c_[along, 0.15 * rng.normal(size=400) + 2 * truth, np.full(400, 20.0)]
    rows = np.array(
        [int(np.argmin(np.abs(along + 1) + 9 * truth)), int(np.argmin(np.abs(along - 1) + 9 * (1 - truth)))]
    )
    shots = Shots(rows, truth[rows], np.zeros(2, np.int64))
    answer = gaussian_mixture(Problem(torch.from_numpy(x).float(), shots, 2, [torch.from_numpy(x).float()]))
    assert any("too few labels" in each for each in answer.remarks)
    alone = (((x[:, None] - x[rows][None]) ** 2).sum(-1).argmin(1) == truth).mean()
    assert alone < 0.75
    assert (answer.probabilities[0].argmax(1).numpy() == truth).mean() > 0.95
