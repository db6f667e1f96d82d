"""Multinomial logistic regression on frozen features, solved to the optimum.

classifier = fit(features, labels, classes=10, l2=0.1)
logits = classifier(other_features)
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

EPSILON = 1e-5  # BatchNorm's
TOLERANCE = 1e-5  # of every entry of the gradient
ITERATIONS = 500


@final
@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Logits f64 [N, C] = (features - mean) / spread @ weights[:D] + weights[D], for features float [N, D]."""

    mean: Tensor
    spread: Tensor
    weights: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return (features.double() - self.mean) / self.spread @ self.weights[:-1] + self.weights[-1]

    def to(self, device: torch.device | str) -> "LinearClassifier":
        """Copy it to a device."""
        return LinearClassifier(*(each.to(device) for each in (self.mean, self.spread, self.weights)))


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    l2: float,
    start: LinearClassifier | None = None,
    tolerance: float = TOLERANCE,
) -> LinearClassifier:
    """Minimise the mean cross-entropy + l2 / 2 · |W|², W without the intercepts: scikit-learn's at C = 1 / (n · l2).

    features  float [n, D], standardised here by their own mean and biased variance, as BatchNorm(affine=False) does
    labels    i64 [n]
    start     another fit to start from, which takes fewer iterations to the same optimum

    Deterministic: L-BFGS in f64 on full batches, from zeros or `start`.
    """
    from scipy.optimize import minimize  # here, because scipy takes long to import and other evaluators do without it

    x = features.double()
    variance, mean = torch.var_mean(x, 0, correction=0)
    spread = (variance + EPSILON).sqrt()
    x, targets = (x - mean) / spread, torch.nn.functional.one_hot(labels, classes).double()

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat).to(x.device).view(-1, classes)
        likely = (x @ w[:-1] + w[-1]).log_softmax(1)
        loss = -(likely * targets).sum() / len(x) + l2 / 2 * w[:-1].square().sum()
        slope = (likely.exp() - targets) / len(x)
        gradient = torch.cat([x.T @ slope + l2 * w[:-1], slope.sum(0, keepdim=True)])
        return float(loss), gradient.flatten().cpu().numpy()

    first = np.zeros((x.shape[1] + 1) * classes) if start is None else start.weights.cpu().numpy().ravel()
    options = {"maxiter": ITERATIONS, "gtol": tolerance, "ftol": 0.0, "maxcor": 20}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x
    return LinearClassifier(mean, spread, torch.from_numpy(found).to(x.device).view(-1, classes))
