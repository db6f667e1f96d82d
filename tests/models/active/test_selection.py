"""Typical images of uncovered clusters first, uncertain ones later: slow loops, and clusters whose answer is known."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from models.active.selection import SMALLEST, clusters, select, typicality, uncertain

SIZES = 30, 20, 12, 9


def blobs(sizes=SIZES) -> tuple[torch.Tensor, np.ndarray]:
    """Directions in tight clusters of these sizes, far from each other, and each one's cluster."""
    rng, own = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    x = np.eye(len(sizes))[own] + 0.05 * rng.normal(size=(len(own), len(sizes)))
    return normalize(torch.from_numpy(x).float(), dim=1), own


def slow_typicality(x: torch.Tensor, k: int) -> list[float]:
    found = []
    for i in range(len(x)):
        distances = sorted(float((x[i].double() - x[j].double()).norm()) for j in range(len(x)) if j != i)[:k]
        found.append(len(distances) / sum(distances))
    return found


@pytest.mark.parametrize(("n", "k"), [(30, 5), (30, 20), (8, 20), (2, 20)])
def test_typicality_is_the_slow_loops(n, k):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(typicality(x, k), slow_typicality(x, k), rtol=1e-9)


def test_an_image_alone_is_typical_of_nothing_and_copies_are_finite():
    assert typicality(torch.ones(1, 3)).tolist() == [0]
    assert typicality(torch.ones(5, 3)).isfinite().all()


def test_each_cluster_without_a_label_gives_its_most_typical_image_the_largest_first():
    """One label in the second cluster: k-means makes 4 clusters of 1 + 3, and the others are asked for by size."""
    x, own = blobs()
    known = np.flatnonzero(own == 1)[:1]
    rest = np.setdiff1d(np.arange(len(x)), known)
    picks = select(x[np.r_[known, rest]], 1, 3, lambda: pytest.fail("no margin is needed"))
    assert [own[rest[pick.row]] for pick in picks] == [0, 2, 3]
    assert [pick.size for pick in picks] == [30, 12, 9]
    for pick, c in zip(picks, (0, 2, 3), strict=True):
        members = np.flatnonzero(own == c)
        slow = slow_typicality(x[members], 20)
        assert rest[pick.row] == members[int(np.argmax(slow))]
        assert pick.typicality == pytest.approx(max(slow), rel=1e-6)
        assert pick.reason == "typical"


def test_once_all_clusters_are_covered_uncertain_images_of_different_clusters_follow():
    """Four labels, one in each cluster, and clusters of outliers: only margins are left."""
    x, own = blobs((30, 20, 4, 4))
    known = np.array([np.flatnonzero(own == c)[0] for c in range(2)])
    rest = np.setdiff1d(np.arange(len(x)), known)
    margins = torch.linspace(0, 1, len(rest))
    cluster = clusters(x[np.r_[known, rest]], 4)
    sizes = np.bincount(cluster)
    picks = select(x[np.r_[known, rest]], 2, 2, lambda: margins)
    if (sizes >= SMALLEST).sum() == 2:  # k-means found the blobs
        assert [pick.reason for pick in picks] == ["uncertain"] * 2
        assert picks[0].row == 0
        assert own[rest[picks[1].row]] != own[rest[picks[0].row]]
        assert picks[1].row == next(i for i in range(len(rest)) if own[rest[i]] != own[rest[0]])
    assert sorted(sizes.tolist()) == [4, 4, 20, 30]


def test_uncertain_images_go_round_the_clusters_as_in_a_slow_loop():
    rng = np.random.default_rng(0)
    cluster, margins = rng.integers(0, 5, 60), rng.random(60).astype(np.float32)
    expected, left = [], {c: sorted(np.flatnonzero(cluster == c), key=lambda i: margins[i]) for c in range(5)}
    while any(left.values()):
        turn = [rows.pop(0) for rows in left.values() if rows]
        expected += sorted(turn, key=lambda i: margins[i])
    assert uncertain(cluster, margins) == [int(i) for i in expected]


@pytest.mark.parametrize("budget", [1, 5, 40, 71])
@pytest.mark.parametrize("scored", [True, False])
def test_any_budget_is_filled_with_different_images(budget, scored):
    x, _ = blobs()
    margins = (lambda: torch.rand(len(x), generator=torch.Generator().manual_seed(0))) if scored else None
    picks = select(x, 0, budget, margins)
    assert len({pick.row for pick in picks}) == budget
    assert scored or {pick.reason for pick in picks} == {"typical"}


def test_one_image_and_copies_of_one_image():
    assert [pick.row for pick in select(torch.ones(1, 3), 0, 1, None)] == [0]
    assert [pick.row for pick in select(torch.ones(1, 3), 0, 1, lambda: torch.ones(1))] == [0]
    assert len(select(torch.ones(9, 3), 3, 6, lambda: torch.ones(6))) == 6
