"""Label spreading against scikit-learn's and the closed form, its graph against a slow loop."""

import numpy as np
import pytest
import torch
from sklearn.semi_supervised import LabelSpreading
from torch.nn.functional import normalize

from models.evaluate.few_shot_protocols.shots import Shots
from models.evaluate.semi_supervised.label_spreading import graph, label_spreading, nearest, shares, spread
from models.evaluate.semi_supervised.problem import Problem


@pytest.fixture(scope="module")
def features():
    """60 images of length 1 in three overlapping clusters."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5))[np.arange(60) % 3] + 0.7 * rng.normal(size=(60, 5))
    return normalize(torch.from_numpy(x).float(), dim=1)


def slow_w(x: np.ndarray, k: int) -> np.ndarray:
    w = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        near = sorted((j for j in range(len(x)) if j != i), key=lambda j: -float(x[i] @ x[j]))[:k]
        for j in near:
            w[i, j] = w[j, i] = 1
    return w


@pytest.mark.parametrize("k", [1, 4, 59])
def test_the_graph_is_the_slow_loops(features, k):
    w = slow_w(features.double().numpy(), k)
    expected = w / np.sqrt(w.sum(1)[:, None] * w.sum(0)[None])
    found = graph(nearest(features, features, min(k + 1, 60)), k)
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-6)


def test_copies_of_an_image_do_not_become_its_neighbour_twice_or_itself():
    x = normalize(torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1], [0.1, 1]]), dim=1)
    found = graph(nearest(x, x, 3), 2).toarray()
    assert (found.diagonal() == 0).all()
    np.testing.assert_allclose(found, found.T)
    assert found[0, 1] > 0
    assert found[3, 4] > 0


@pytest.mark.parametrize("alpha", [0.2, 0.9, 0.99])
def test_labels_spread_as_in_the_closed_form_and_in_scikit_learn(features, alpha):
    s = graph(nearest(features, features, 6), 5)
    labels = np.zeros((60, 3), np.float32)
    labels[[0, 1, 2], [0, 1, 2]] = 1
    found = spread(s, labels, alpha)
    closed = (1 - alpha) * np.linalg.solve(np.eye(60) - alpha * s.toarray(), labels.astype(np.float64))
    np.testing.assert_allclose(found, closed, atol=1e-8)
    known = np.full(60, -1)
    known[:3] = np.arange(3)
    w = slow_w(features.double().numpy(), 5)
    theirs = LabelSpreading(kernel=lambda *_: w, alpha=alpha, max_iter=20000, tol=1e-9).fit(features.numpy(), known)
    np.testing.assert_allclose(shares(found).numpy(), theirs.label_distributions_, atol=1e-5)


def test_several_folds_at_once_are_each_by_itself(features):
    s = graph(nearest(features, features, 6), 5)
    labels = np.zeros((2, 60, 3), np.float32)
    labels[0, [0, 1, 2], [0, 1, 2]] = labels[1, [3, 4, 5], [0, 1, 2]] = 1
    both = spread(s, np.concatenate(list(labels), axis=1), 0.9)
    for i in range(2):
        alone = spread(s, labels[i], 0.9)
        np.testing.assert_allclose(both[:, 3 * i : 3 * i + 3], alone, atol=1e-7)


def test_two_moons_are_told_apart_by_one_label_each():
    """One label at one end of each moon: the nearest label is wrong for many, the label along the moon for none."""
    t = np.linspace(0, np.pi, 60)
    moons = np.concatenate([np.c_[np.cos(t), np.sin(t)], np.c_[1 - np.cos(t), 0.4 - np.sin(t)]])
    x = normalize(torch.from_numpy(np.c_[moons, np.full(120, 4.0)]).float(), dim=1)  # directions keep the moons apart
    labels, truth = np.zeros((120, 2), np.float32), np.arange(120) // 60
    labels[[0, 60], [0, 1]] = 1
    found = spread(graph(nearest(x, x, 6), 5), labels, 0.99).argmax(1)
    assert (found == truth).all()
    assert ((x @ x[[0, 60]].T).argmax(1).numpy() == truth).mean() < 0.9


def test_an_image_that_no_label_reaches_has_no_answer():
    noise = np.random.default_rng(0).normal(size=(120, 3))
    x = torch.from_numpy(noise + np.repeat([[9.0, 0, 0], [-9, 0, 0]], 60, axis=0))
    shots = Shots(np.array([0, 1]), np.array([0, 1]), np.zeros(2, np.int64))
    answer = label_spreading(Problem(x.float(), shots, 2, [x[60:].float()]))
    assert answer.chosen["alpha"] == 0.99
    assert "too few labels to hold any out" in answer.remarks[0]
    assert "no label reaches 60 images of 120" in " ".join(answer.remarks)
    assert (answer.probabilities[0] == 0).all()
