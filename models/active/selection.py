"""Choose the images whose label would help most: typical ones of uncovered clusters, then uncertain ones (TypiClust).

picks = select(features, n_known=40, budget=20, margins=lambda: margins)   # rows n_known... are to be chosen from
"""

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

NEIGHBOURS = 20  # Hacohen et al. 2022, section 3.2
MOST_CLUSTERS = 500  # the same, appendix
SMALLEST = 5  # images of a cluster that an image can be typical of: below are outliers (the same, appendix)
SMALL = 50  # clusters up to which k-means reads all images in each step (the same, appendix)
CLOSEST = 1e-6  # mean distance below which images are copies


class Pick(NamedTuple):
    """A chosen image: its row among those to choose from, why, and its cluster's number and size.

    typicality  inverse mean distance to its nearest neighbours in the cluster; None where it was not asked for
    """

    row: int
    reason: Literal["typical", "uncertain"]
    cluster: int
    size: int
    typicality: float | None


def select(features: Tensor, n_known: int, budget: int, margins: Callable[[], Tensor] | None) -> list[Pick]:
    """Choose `budget` images, the most useful first.

    features  f32 [N, D], of length 1: n_known images with a label, then those to choose from
    margins   returns the margin f32 [N - n_known] of the probabilities of each image's two likeliest classes; it is
              called only if typical images do not fill the budget. None where there is no classifier

    Images are clustered by k-means into n_known + budget clusters, at most MOST_CLUSTERS. Clusters without a label give
    their most typical image, the largest first (Hacohen et al. 2022). Once none of SMALLEST images is left, the most
    uncertain image of each cluster follows, the smallest margin first, then the second of each, and so on; without a
    classifier each cluster's most typical image that is left, the clusters with fewest labels and choices first.
    """
    cluster = clusters(features, min(n_known + budget, MOST_CLUSTERS))
    sizes, known = (np.bincount(each, minlength=cluster.max() + 1) for each in (cluster, cluster[:n_known]))
    own = cluster[n_known:]
    uncovered = [c for c in np.argsort(-sizes, kind="stable") if not known[c] and sizes[c] >= SMALLEST]
    picks = [_most_typical(features[n_known:], own, c, sizes, set()) for c in uncovered[:budget]]
    if margins is None:
        return _by_turns(features[n_known:], own, sizes, known, picks, budget)
    if len(picks) < budget:
        taken = {pick.row for pick in picks}
        for row in uncertain(own, margins().numpy())[: budget + len(taken)]:
            if row not in taken and len(picks) < budget:
                picks.append(Pick(row, "uncertain", int(own[row]), int(sizes[own[row]]), None))
    return picks


def clusters(features: Tensor, n: int) -> np.ndarray:
    """Cluster features f32 [N, D] by k-means into n clusters, or fewer where fewer images differ: i64 [N]."""
    from sklearn.cluster import KMeans, MiniBatchKMeans  # here, because predict alone does without it
    from sklearn.exceptions import ConvergenceWarning

    kind = KMeans if n <= SMALL else MiniBatchKMeans
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # copies of images leave clusters empty
        found = kind(min(n, len(features)), n_init=1, random_state=0).fit(features.numpy())
    return found.labels_.astype(np.int64)


def typicality(features: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Compute the typicality of each of features f32 [N, D] among them: f64 [N], the inverse of the mean distance to
    its k nearest neighbours, or to all others where there are fewer (Hacohen et al. 2022, section 3.2); 0 where it is
    alone."""
    k = min(k, len(features) - 1)
    if k < 1:
        return torch.zeros(len(features), dtype=torch.float64)
    found = []
    x = features.double()
    for first, rows in zip(range(0, len(x), 1024), x.split(1024), strict=True):
        distances = torch.cdist(rows, x, compute_mode="donot_use_mm_for_euclid_dist")
        distances[torch.arange(len(rows)), first + torch.arange(len(rows))] = torch.inf  # not its own neighbour
        found.append(distances.topk(k, dim=1, largest=False).values.mean(1))
    return 1 / torch.cat(found).clamp_min(CLOSEST)


def uncertain(cluster: np.ndarray, margins: np.ndarray) -> list[int]:
    """Order images so that they are uncertain and different: each cluster's smallest margin first, by margin, then each
    one's second, and so on.

    cluster  i64 [N], margins f32 [N]  of each image
    """
    order = np.lexsort((margins, cluster))
    starts = np.flatnonzero(np.r_[True, cluster[order][1:] != cluster[order][:-1]])[: len(order)]
    turn = np.empty(len(order), np.int64)
    turn[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.lexsort((margins, turn)).tolist()


def _most_typical(features: Tensor, own: np.ndarray, c: int, sizes: np.ndarray, taken: set[int]) -> Pick:
    """Pick the most typical image of cluster c that is not taken."""
    rows = np.flatnonzero(own == c)
    found = typicality(features[torch.from_numpy(rows)])
    free = torch.tensor([row not in taken for row in rows.tolist()])
    best = int(torch.where(free, found, -torch.inf).argmax())
    return Pick(int(rows[best]), "typical", int(c), int(sizes[c]), float(found[best]))


def _by_turns(
    features: Tensor, own: np.ndarray, sizes: np.ndarray, known: np.ndarray, picks: list[Pick], budget: int
) -> list[Pick]:
    """Fill the budget by typical images alone, of the cluster with the fewest labels and choices, the largest first."""
    left = np.bincount(own, minlength=len(sizes))
    covered, picks = known.copy(), list(picks)
    for pick in picks:
        covered[pick.cluster] += 1
        left[pick.cluster] -= 1
    while len(picks) < budget:
        c = min(np.flatnonzero(left), key=lambda c: (covered[c], -sizes[c]))
        picks.append(_most_typical(features, own, c, sizes, {pick.row for pick in picks}))
        covered[c] += 1
        left[c] -= 1
    return picks
