"""Estimate what waiting for the slowest rank costs, where each rank encodes the strong views that pass on it.

    python -m models.bench.stragglers

Images are spread over ranks at random, so each rank's number of passed pseudo-labels is binomial, whatever makes one
image easier than another, and a step takes as long as the rank with the most: E max = sum over k of 1 - F(k)^n, F the
distribution function of one rank's number. Cost is FLOPs of the slowest rank over the mean rank's, less one.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from models.bench import communication
from pipeline import text
from pipeline.errors import InputError, command
from pipeline.flags import AT_LEAST_1, BELOW_1, BETWEEN_0_AND_1, Bound, check_bounds, parse

PER_NODE = communication.PER_NODE
AT_LEAST_7 = Bound("at least 7, so that one image is labelled", lambda value: value >= 7)
HEAD = (
    "images a GPU, GPUs", "rate", "corr.", "mean", "most", "simulated", "cost", "node shares", "quota", "left out"
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The straggler cost of selective strong views in Semi-MAE; 1 labelled image to 7 unlabelled."""

    model: str = "vit_small_patch16_224"
    """Encoder, by timm's name; with MAE's decoder."""
    ranks: tuple[int, ...] = (8, 64, 512)
    """GPUs, in nodes of 8."""
    unlabelled: Annotated[tuple[int, ...], AT_LEAST_7] = (91, 364)
    """Unlabelled images on each GPU in each step."""
    pass_rates: Annotated[tuple[float, ...], BETWEEN_0_AND_1] = (0.2, 0.5, 0.9)
    """Share of the pseudo-labels that pass."""
    correlations: Annotated[tuple[float, ...], BELOW_1] = (0.0, 0.05)
    """Of passing, for two images of a rank: 0 where images are spread at random, as here; more in shards by class."""
    quota: float = 1.0
    """Strong views that a rank may encode, in standard deviations above the mean; further ones are left out."""
    steps: Annotated[int, AT_LEAST_1] = 500
    """Simulated steps."""


def expected_most(images: int, rate: float, ranks: int, correlation: float = 0.0, sharing: int = 1) -> float:
    """Compute exactly the expected largest number of strong views on any of `ranks` ranks with `images` images each.

    sharing  ranks that spread what passed on them evenly over each other, in whole images; without correlation
    """
    below = np.cumsum(probabilities(images * sharing, rate, correlation))[:-1].clip(max=1.0)
    return float((1.0 - below[::sharing] ** (ranks // sharing)).sum())


def probabilities(images: int, rate: float, correlation: float = 0.0) -> np.ndarray:
    """Compute the probabilities that 0 .. images images pass on a rank: f64 [images + 1], binomial; beta-binomial where
    its images are correlated."""
    k = torch.arange(images + 1, dtype=torch.float64)
    whole, passing, failing = (torch.tensor(each, dtype=torch.float64) for each in (images, rate, 1 - rate))
    logs = torch.lgamma(whole + 1) - torch.lgamma(k + 1) - torch.lgamma(whole - k + 1)
    if correlation == 0.0:
        logs += torch.special.xlogy(k, passing) + torch.special.xlogy(whole - k, failing)
    else:
        a, b = (torch.tensor(each, dtype=torch.float64) for each in _beta(rate, correlation))
        logs += _log_beta(k + a, whole - k + b) - _log_beta(a, b)
    return logs.exp().numpy()


def simulated_most(
    images: int, rate: float, ranks: int, steps: int, correlation: float = 0.0, seed: int = 0
) -> tuple[float, float]:
    """Estimate `expected_most` by drawing every image of every rank's step: mean and its standard error."""
    draws = np.random.default_rng(seed)
    most = []
    for _ in range(steps):
        rates = draws.beta(*_beta(rate, correlation), (ranks, 1)) if correlation else rate
        most.append((draws.random((ranks, images), np.float32) < rates).sum(1).max())
    return float(np.mean(most)), float(np.std(most) / steps**0.5)


def cut(images: int, rate: float, deviations: float, correlation: float = 0.0) -> tuple[int, float]:
    """Return the largest number of views that a quota lets a rank encode, and the share of passed images left out."""
    spread = (images * rate * (1 - rate) * (1 + (images - 1) * correlation)) ** 0.5
    views = min(images, round(images * rate + deviations * spread))
    chances = probabilities(images, rate, correlation)
    return views, float((np.arange(images + 1 - views) * chances[views:]).sum() / (images * rate))


def cost(views: float, images: int, rate: float, flops: tuple[float, float]) -> float:
    """Return the extra cost, as a share, of a step that takes as long as `views` strong views over images * rate views.

    flops  of all else in a rank's step, and of one view
    """
    same, each = flops
    return each * (views - images * rate) / (same + each * images * rate)


def step_and_view(model: str, unlabelled: int) -> tuple[float, float]:
    """Count the FLOPs of Semi-MAE's step on one rank if nothing passes, and of each view that does."""
    method = communication.networks(model)["Semi-MAE"]
    options = communication.Options(labelled=unlabelled // 7, unlabelled=unlabelled, pass_rate=0.0)
    return sum(communication.step_flops(method, options)), communication.view_flops(method)


def line(options: Options, images: int, rate: float, correlation: float, ranks: int, flops: tuple[float, float]) -> str:
    """Format a row: the largest number that passes, in closed form and simulated, what it costs, and what that cost is
    where a node's ranks share their views or a quota limits them."""
    most = expected_most(images, rate, ranks, correlation)
    mean, error = simulated_most(images, rate, ranks, options.steps, correlation)
    views, lost = cut(images, rate, options.quota, correlation)
    costs = [text.percent(cost(each, images, rate, flops)) for each in (most, min(most, views))]
    sharing = min(PER_NODE, ranks)
    shared = expected_most(images, rate, ranks, sharing=sharing) if correlation == 0.0 else None
    costs.insert(1, "" if shared is None else text.percent(cost(shared, images, rate, flops)))
    cells = [f"{images}, {ranks}", f"{rate:g}", f"{correlation:g}", f"{images * rate:.1f}", f"{most:.1f}"]
    return text.line([*cells, f"{mean:.1f} ± {error:.1f}", *costs, text.percent(lost)])


def main() -> None:
    """Print the table, a row for each case as soon as it is known."""
    options = parse(Options, description=__doc__, prog="python -m models.bench.stragglers")
    check_bounds(options, "--")
    if any(n < 1 or n % min(n, PER_NODE) for n in options.ranks):
        raise InputError(f"--ranks: expected up to {PER_NODE} or whole nodes of {PER_NODE}, got {options.ranks}")
    print(text.table([HEAD]), end="")
    for images in options.unlabelled:
        flops = step_and_view(options.model, images)
        for correlation in options.correlations:
            for rate in options.pass_rates:
                for ranks in options.ranks:
                    print(line(options, images, rate, correlation, ranks, flops), flush=True)


def _beta(rate: float, correlation: float) -> tuple[float, float]:
    """Return the parameters of a rank's own pass rate: it has this mean, and two of its images this correlation."""
    scale = 1 / correlation - 1
    return rate * scale, (1 - rate) * scale


def _log_beta(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


if __name__ == "__main__":
    command(main)
