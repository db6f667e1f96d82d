"""Label spreading on the graph of nearest neighbours (Zhou et al. 2004): labels flow along edges to unlabelled images.

The fixed point of F = alpha S F + (1 - alpha) Y, with S = D^-1/2 W D^-1/2, is that of scikit-learn's LabelSpreading. It
is solved here by conjugate gradients (Iscen et al. 2019) for the labels of all folds at once: scikit-learn iterates the
equation, hundreds of times where alpha is near 1, and once for each fold.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn.functional import normalize

from models.evaluate.few_shot_protocols.metric import Score
from models.evaluate.semi_supervised.problem import Answer, Problem, choose, one_hot
from pipeline.text import count

NEIGHBOURS = 5, 10, 20, 50
ALPHAS = 0.5, 0.9, 0.99
ITERATIONS, TOLERANCE = 500, 1e-9  # of the solver. The residual, relative to the labels, must be far below the share of
# an image that is many edges away from a label, since its classes are compared with each other.
ROWS = 2048  # queries of which neighbours are searched at once


class Near(NamedTuple):
    """The nearest images of each of M queries, nearest first: their rows i64 [M, k] and cosines f32 [M, k]."""

    index: np.ndarray
    cosines: np.ndarray


def nearest(known: Tensor, queries: Tensor, k: int) -> Near:
    """Find the k nearest of `known` f32 [N, D] for each of `queries` f32 [M, D], all of length 1, by cosine.

    All M x N cosines are computed, some thousand rows of them at a time.
    """
    index, cosines = [], []
    for rows in queries.split(ROWS):
        near = (rows @ known.T).topk(min(k, len(known)), dim=1)
        index.append(near.indices.numpy())
        cosines.append(near.values.numpy())
    return Near(np.concatenate(index), np.concatenate(cosines))


def graph(near: Near, k: int) -> sparse.csr_array:
    """Make the matrix S [N, N] of images from the neighbours of each: W is 1 where either of two images is one of the
    other's k nearest, itself left out, and S = D^-1/2 W D^-1/2 with W's row sums D.

    near  of each image k + 1 or more, among them the image itself
    """
    n = len(near.index)
    keep = near.index != np.arange(n)[:, None]
    keep &= np.cumsum(keep, axis=1) <= k  # duplicates may come before an image itself
    rows = np.repeat(np.arange(n), keep.sum(1))
    one_way = sparse.csr_array((np.ones(len(rows), np.float32), (rows, near.index[keep])), shape=(n, n))
    w = one_way.maximum(one_way.T).tocsr()
    scale = 1 / np.sqrt(np.maximum(w.sum(1), 1))
    return (sparse.diags_array(scale) @ w @ sparse.diags_array(scale)).tocsr().astype(np.float64)


def spread(s: sparse.csr_array, labels: np.ndarray, alpha: float) -> np.ndarray:
    """Solve (1 - alpha S) F = (1 - alpha) Y for F f64 [N, C], of labels Y [N, C] that are 0 where none is known.

    Conjugate gradients in f64, of all columns at once, each with steps of its own.
    """
    residual = (1 - alpha) * labels.astype(np.float64)
    found, direction = np.zeros_like(residual), residual
    size = first = np.square(residual).sum(0)
    for _ in range(ITERATIONS):
        if (size <= TOLERANCE**2 * first).all():
            break
        moved = direction - alpha * (s @ direction)
        along = (direction * moved).sum(0)
        step = np.divide(size, along, out=np.zeros_like(size), where=along > 0)  # a column without labels stays 0
        found, residual = found + step * direction, residual - step * moved
        before, size = size, np.square(residual).sum(0)
        direction = residual + np.divide(size, before, out=np.zeros_like(size), where=before > 0) * direction
    return np.where(found > TOLERANCE * (1 - alpha), found, 0)  # none is below 0 but for rounding


def shares(values: np.ndarray) -> Tensor:
    """Scale rows [N, C] to a sum of 1, f32; a row of zeros, which no label reaches, stays one."""
    sums = values.sum(1, keepdims=True)
    return torch.from_numpy(np.divide(values, sums, out=np.zeros_like(values), where=sums > 0)).float()


def label_spreading(problem: Problem) -> Answer:
    """Choose k and alpha on held-out labels, spread all labels, and give each query the mean of its k neighbours.

    Features are scaled to length 1. Queries are no part of the graph: labels spread over the images of the training
    file alone, as an unlabelled image's neighbours are all that this method learns from.
    """
    features, folds = normalize(problem.features, dim=1), problem.folds()
    ks = [k for k in NEIGHBOURS if k < len(features)] or [len(features) - 1]
    near = nearest(features, features, max(ks) + 1)
    rows, targets = problem.rows.numpy(), one_hot(problem.labels, problem.classes).numpy()
    remarks, graphs = [], {k: graph(near, k) for k in ks}

    def scores(settings: tuple[int, float]) -> list[Score]:
        k, alpha = settings
        width = problem.classes
        labels = np.zeros((len(features), width * len(folds)), np.float32)
        for i, fold in enumerate(folds):
            labels[rows[fold.learned], i * width : (i + 1) * width] = targets[fold.learned]
        found = spread(graphs[k], labels, alpha)
        parts = [shares(found[rows[fold.held], i * width : (i + 1) * width]) for i, fold in enumerate(folds)]
        return [problem.scored(part, fold.held) for part, fold in zip(parts, folds, strict=True)]

    options = [(k, alpha) for k, alpha in product(ks, ALPHAS)]
    if folds:
        k, alpha = choose(options, scores)
    else:
        k, alpha = ks[len(ks) // 2], ALPHAS[-1]
        remarks.append(f"label spreading: too few labels to hold any out, so k is {k} and alpha {alpha:g}")
    labels = np.zeros((len(features), problem.classes), np.float32)
    labels[rows] = targets
    spread_out = shares(spread(graphs[k], labels, alpha))
    if alone := int((spread_out.sum(1) == 0).sum()):
        remarks.append(f"label spreading: no label reaches {count(alone, 'image')} of {len(features):,}")
    found = []
    for queries in problem.queries:
        index = torch.from_numpy(nearest(features, normalize(queries, dim=1), k).index)
        found.append(shares(spread_out[index].mean(1).numpy()))
    return Answer(found, {"k": k, "alpha": alpha}, remarks)
