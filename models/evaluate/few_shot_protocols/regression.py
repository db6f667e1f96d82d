"""Multinomial logistic regression on frozen features, solved to the optimum.

classifier = fit(features, labels, classes=10, l2=0.1)
logits = classifier(other_features)
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from models.evaluate.few_shot_protocols.targets import as_targets

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
    labels    i64 [n]; or float [n, C], 1 or 0, of several labels an image: then each class is learned by itself, and
              minimised is the mean over images of the sum over classes of the binary cross-entropy + l2 / 2 · |W|²
    start     another fit to start from, which takes fewer iterations to the same optimum

    Deterministic: L-BFGS in f64 on full batches, from zeros or `start`.
    """
    from scipy.optimize import minimize  # here, because scipy takes long to import and other evaluators do without it

    x = features.double()
    variance, mean = torch.var_mean(x, 0, correction=0)
    spread = (variance + EPSILON).sqrt()
    x, targets, several = (x - mean) / spread, as_targets(labels, classes), labels.ndim == 2

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat).to(x.device).view(-1, classes)
        logits = x @ w[:-1] + w[-1]
        if several:
            loss = binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(x)
            likely = logits.sigmoid()
        else:
            likely = logits.log_softmax(1)
            loss, likely = -(likely * targets).sum() / len(x), likely.exp()
        loss = loss + l2 / 2 * w[:-1].square().sum()
        slope = (likely - targets) / len(x)
        gradient = torch.cat([x.T @ slope + l2 * w[:-1], slope.sum(0, keepdim=True)])
        return float(loss), gradient.flatten().cpu().numpy()

    first = np.zeros((x.shape[1] + 1) * classes) if start is None else start.weights.cpu().numpy().ravel()
    options = {"maxiter": ITERATIONS, "gtol": tolerance, "ftol": 0.0, "maxcor": 20}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x
    return LinearClassifier(mean, spread, torch.from_numpy(found).to(x.device).view(-1, classes))
