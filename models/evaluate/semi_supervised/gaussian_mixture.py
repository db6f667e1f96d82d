"""A Gaussian mixture with few labels: one component a class, fitted by EM to labelled and unlabelled images together.

The idea is SemiOccam's (arXiv 2506.03582): a labelled image belongs to its class's component in every step, an
unlabelled one as far as the components say. Without labels EM is scikit-learn's GaussianMixture; with labels alone its
first step is the closed form, linear discriminant analysis where the covariance is shared.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.evaluate.few_shot_protocols.metric import Score
from models.evaluate.semi_supervised.problem import Answer, Problem, choose, one_hot
from pipeline.text import count

Covariance = Literal["tied", "diag"]
"""One matrix for all classes, or a variance for each class and dimension; scikit-learn's names."""
COVARIANCES: tuple[Covariance, ...] = ("tied", "diag")
DIMENSIONS = 16, 32, 64
RIDGE = 1e-6  # scikit-learn's reg_covar, here of the features' mean variance, so that it means the same at any scale
TOLERANCE, ITERATIONS = 1e-2, 50  # EM ends once an image's responsibilities change by less than this on average


@final
@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of C Gaussians in d dimensions, f64.

    weights     [C]                        0 for a class of which nothing was seen
    means       [C, d]
    covariance  tied [d, d], diag [C, d]   a matrix of all classes, or variances of each
    """

    kind: Covariance
    weights: Tensor
    means: Tensor
    covariance: Tensor

    def posterior(self, x: Tensor) -> Tensor:
        """Compute the probability of each class for x f64 [N, d]: f64 [N, C], the E step.

        Terms that all classes share are left out, so that a tied covariance costs one product of x with [d, C].
        """
        if self.kind == "tied":
            slopes = torch.cholesky_solve(self.means.T, torch.linalg.cholesky(self.covariance))
            log = x @ slopes - (self.means.T * slopes).sum(0) / 2
        else:
            precision = 1 / self.covariance
            log = x @ (precision * self.means).T - x.square() @ precision.T / 2
            log -= (precision * self.means.square() + self.covariance.log()).sum(1) / 2
        return (log + self.weights.log()).softmax(1)


def second_moments(x: Tensor, kind: Covariance) -> Tensor:
    """Compute what each M step reads of x f64 [N, d] once: x^T x [d, d] for tied, x² [N, d] for diag."""
    return x.T @ x if kind == "tied" else x.square()


def maximise(x: Tensor, second: Tensor, responsibilities: Tensor, kind: Covariance, ridge: float) -> Mixture:
    """Fit the mixture to images x f64 [N, d] that belong to its classes by f64 [N, C], rows of sum 1: the M step.

    second  `second_moments` of x
    ridge   is added to every variance
    """
    counts = responsibilities.sum(0)
    shared = counts.clamp_min(torch.finfo(x.dtype).tiny)[:, None]
    means = responsibilities.T @ x / shared
    if kind == "tied":
        covariance = (second - (counts[:, None] * means).T @ means) / counts.sum()
        covariance = covariance + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    else:
        covariance = (responsibilities.T @ second / shared - means.square()).clamp_min(0) + ridge
    return Mixture(kind, counts / counts.sum(), means, covariance)


def start(x: Tensor, second: Tensor, rows: Tensor, targets: Tensor, kind: Covariance, ridge: float) -> Mixture:
    """Begin with the means and shares of the labels (targets f64 [L, C] of `rows` i64 [L]), and with the covariance of
    all images x f64 [N, d]: a few labels tell of no more dimensions than there are labels."""
    counts = targets.sum(0)
    means = targets.T @ x[rows] / counts.clamp_min(1)[:, None]
    whole = maximise(x, second, torch.ones(len(x), 1, dtype=x.dtype), kind, ridge).covariance
    return Mixture(kind, counts / counts.sum(), means, whole if kind == "tied" else whole.expand_as(means))


def fit(
    x: Tensor,
    rows: Tensor,
    targets: Tensor,
    kind: Covariance,
    first: Mixture | None = None,
    iterations: int = ITERATIONS,
) -> tuple[Mixture, bool]:
    """Fit the mixture by EM to images x f64 [N, d], of which `rows` i64 [L] have labels, targets f64 [L, C].

    first  where to begin; None: `start`

    Returns it, and whether responsibilities had stopped to change.
    """
    ridge, second = RIDGE * float(x.var(0, correction=0).mean()), second_moments(x, kind)
    found = start(x, second, rows, targets, kind, ridge) if first is None else first
    before = None
    for _ in range(iterations):
        now = found.posterior(x)
        now[rows] = targets
        if before is not None and float((now - before).abs().sum(1).mean()) < TOLERANCE:
            return found, True
        found, before = maximise(x, second, now, kind, ridge), now
    return found, False


class Projection(NamedTuple):
    """Principal components: features f32 [N, D], scaled to length 1, become (features - mean) @ axes, f64 [N, d]."""

    mean: Tensor
    axes: Tensor

    def __call__(self, features: Tensor, dimensions: int) -> Tensor:
        return (normalize(features.double(), dim=1) - self.mean) @ self.axes[:, :dimensions]


def principal(features: Tensor) -> Projection:
    """Find the principal components of features f32 [N, D], largest variance first; no label is read."""
    x = normalize(features.double(), dim=1)
    mean = x.mean(0)
    _, axes = torch.linalg.eigh((x - mean).T @ (x - mean))
    return Projection(mean, axes.flip(1))


def gaussian_mixture(problem: Problem) -> Answer:
    """Choose dimensions and covariance on held-out labels, and fit to all images.

    Features are scaled to length 1 before the principal components, as k-NN's: their length tells of an image's
    contrast more than of its class, and would be the first component.
    """
    projection, rows, folds = principal(problem.features), problem.rows, problem.folds()
    targets, remarks = one_hot(problem.labels, problem.classes).double(), []
    most = min(problem.features.shape)
    dimensions = [d for d in DIMENSIONS if d <= most] or [most]
    projected = projection(problem.features, max(dimensions))

    def scores(settings: tuple[int, Covariance]) -> list[Score]:
        d, kind = settings
        x, found = projected[:, :d].contiguous(), []
        for fold in folds:
            mixture, _ = fit(x, rows[fold.learned], targets[fold.learned], kind)
            found.append(problem.scored(mixture.posterior(x[rows[fold.held]]), fold.held))
        return found

    options = [(d, kind) for d, kind in product(dimensions, COVARIANCES)]
    if folds:
        d, kind = choose(options, scores)
    else:
        d, kind = options[len(options) // 2]
        remarks.append(f"Gaussian mixture: too few labels to hold any out, so it is {kind} in {d} dimensions")
    mixture, over = fit(projected[:, :d].contiguous(), rows, targets, kind)
    if not over:
        remarks.append(f"Gaussian mixture: EM was ended after {count(ITERATIONS, 'step')}")
    found = [mixture.posterior(projection(queries, d)).float() for queries in problem.queries]
    return Answer(found, {"dimensions": d, "covariance": kind}, remarks)
