"""What waiting for the slowest rank costs, where each encodes the strong views that pass on it.

    python -m models.bench.stragglers

Images are spread over ranks at random, so each rank's number of passed pseudo-labels is binomial, whatever makes one
image easier than another, and a step takes as long as the rank with the most: E max = sum over k of 1 - F(k)^n, F the
distribution function of one rank's number. Cost is FLOPs of the slowest rank over the mean rank's, less one.
"""

from dataclasses import dataclass

import numpy as np
import torch

from models.bench import communication
from pipeline import text
from pipeline.errors import InputError, command
from pipeline.flags import parse

PER_NODE = communication.PER_NODE
HEAD = (
    "images a GPU, GPUs", "rate", "corr.", "mean", "most", "simulated", "cost, %", "node shares", "quota", "left out"
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The straggler cost of selective strong views in Semi-MAE; 1 labelled image to 7 unlabelled."""

    model: str = "vit_small_patch16_224"
    """Encoder, by timm's name; with MAE's decoder."""
    ranks: tuple[int, ...] = (8, 64, 512)
    """GPUs, in nodes of 8."""
    unlabelled: tuple[int, ...] = (91, 364)
    """Unlabelled images on each GPU in each step."""
    pass_rates: tuple[float, ...] = (0.2, 0.5, 0.9)
    """Share of the pseudo-labels that pass."""
    correlations: tuple[float, ...] = (0.0, 0.05)
    """Of two images of a rank, in passing: 0 where images are dealt at random, as here; more in shards by class."""
    quota: float = 1.0
    """Strong views that a rank may encode, in standard deviations above the mean; what is over is left out."""
    steps: int = 500
    """Simulated steps."""


def expected_most(images: int, rate: float, ranks: int, correlation: float = 0.0, sharing: int = 1) -> float:
    """E of the most strong views on any of `ranks` ranks with `images` each: exact.

    sharing  ranks that spread what passed on them evenly over each other, in whole images; without correlation
    """
    below = np.cumsum(probabilities(images * sharing, rate, correlation))[:-1].clip(max=1.0)
    return float((1.0 - below[::sharing] ** (ranks // sharing)).sum())


def probabilities(images: int, rate: float, correlation: float = 0.0) -> np.ndarray:
    """Of 0 .. images passing on a rank: f64 [images + 1], binomial; beta-binomial where its images are correlated."""
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
    """The same by drawing every image of every rank's step: mean and its standard error."""
    draws = np.random.default_rng(seed)
    most = []
    for _ in range(steps):
        rates = draws.beta(*_beta(rate, correlation), (ranks, 1)) if correlation else rate
        most.append((draws.random((ranks, images), np.float32) < rates).sum(1).max())
    return float(np.mean(most)), float(np.std(most) / steps**0.5)


def cut(images: int, rate: float, deviations: float, correlation: float = 0.0) -> tuple[int, float]:
    """The most views that a quota lets a rank encode, and the share of passed images that it leaves out."""
    spread = (images * rate * (1 - rate) * (1 + (images - 1) * correlation)) ** 0.5
    views = min(images, round(images * rate + deviations * spread))
    chances = probabilities(images, rate, correlation)
    return views, float((np.arange(images + 1 - views) * chances[views:]).sum() / (images * rate))


def cost(views: float, images: int, rate: float, flops: tuple[float, float]) -> float:
    """Of a step that takes as long as `views` strong views a rank, over one that takes images * rate.

    flops  of all else in a rank's step, and of one view
    """
    same, each = flops
    return each * (views - images * rate) / (same + each * images * rate)


def step_and_view(model: str, unlabelled: int) -> tuple[float, float]:
    """FLOPs of Semi-MAE's step on one rank if nothing passes, and of each view that does."""
    method = communication.networks(model)["Semi-MAE"]
    options = communication.Options(labelled=unlabelled // 7, unlabelled=unlabelled, pass_rate=0.0)
    return sum(communication.step_flops(method, options)), communication.view_flops(method)


def line(options: Options, images: int, rate: float, correlation: float, ranks: int, flops: tuple[float, float]) -> str:
    """A row: the most that pass, in closed form and simulated, what it costs, and what a remedy leaves of that."""
    most = expected_most(images, rate, ranks, correlation)
    mean, error = simulated_most(images, rate, ranks, options.steps, correlation)
    views, lost = cut(images, rate, options.quota, correlation)
    percent = [f"{100 * cost(each, images, rate, flops):.1f}" for each in (most, min(most, views))]
    sharing = min(PER_NODE, ranks)
    shared = expected_most(images, rate, ranks, sharing=sharing) if correlation == 0.0 else None
    percent.insert(1, "" if shared is None else f"{100 * cost(shared, images, rate, flops):.1f}")
    cells = [f"{images}, {ranks}", f"{rate:g}", f"{correlation:g}", f"{images * rate:.1f}", f"{most:.1f}"]
    return text.line([*cells, f"{mean:.1f} ± {error:.1f}", *percent, f"{100 * lost:.1f}"])


def main() -> None:
    """Print the table."""
    options = parse(Options, description=__doc__, prog="python -m models.bench.stragglers")
    if min(options.unlabelled, default=0) < 7 or not all(0 < rate < 1 for rate in options.pass_rates):
        raise InputError("7 unlabelled images or more and pass rates between 0 and 1 are expected; see --help")
    if any(n < 1 or n % min(n, PER_NODE) for n in options.ranks) or options.steps < 1:
        raise InputError(f"ranks up to {PER_NODE} or whole nodes of {PER_NODE}, and a step or more, are expected")
    print(text.table([HEAD]), end="")
    for images in options.unlabelled:
        flops = step_and_view(options.model, images)
        for correlation in options.correlations:
            for rate in options.pass_rates:
                for ranks in options.ranks:
                    print(line(options, images, rate, correlation, ranks, flops), flush=True)


def _beta(rate: float, correlation: float) -> tuple[float, float]:
    """Parameters of a rank's own rate: its mean, and the correlation of two images that share it."""
    scale = 1 / correlation - 1
    return rate * scale, (1 - rate) * scale


def _log_beta(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


if __name__ == "__main__":
    command(main)
