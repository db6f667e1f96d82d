"""Confidence intervals of shares and of paired differences, and McNemar's exact test."""

from math import exp, lgamma, log, sqrt
from statistics import NormalDist
from typing import NamedTuple

from pipeline.text import percent

LEVEL = 0.95
"""Confidence of every interval that an evaluation prints."""


class Interval(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def wilson(hits: int, n: int, level: float = LEVEL) -> Interval:
    """Compute the score interval of a share, hits of n independent trials (Wilson 1927; Brown et al. 2001, eq. 4).

    wilson(950, 1000)  # Interval(low=0.9347, high=0.9619)

    It stays between 0 and 1 and has a width where hits are 0 or n. Raises ValueError if n < 1 or hits are not in 0..n.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"expected hits from 0 to n and n of 1 or more, got {hits} of {n}")
    z, share = NormalDist().inv_cdf(0.5 + level / 2), hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Interval(0.0 if hits == 0 else middle - half, 1.0 if hits == n else middle + half)


def with_interval(name: str, hits: int, n: int) -> dict[str, float]:
    """Return a share under `name`, and the ends of its Wilson interval under `name`_low and `name`_high."""
    low, high = wilson(hits, n)
    return {name: hits / n, f"{name}_low": low, f"{name}_high": high}


def shown(interval: Interval) -> str:
    """Format an interval of shares: "93.5 % to 96.2 %"."""
    return f"{percent(interval.low)} to {percent(interval.high)}"


class Pairs(NamedTuple):
    """How often two classifiers are right on the same images: both, the first or the second alone, neither."""

    both: int
    first: int
    second: int
    neither: int


def difference(pairs: Pairs) -> float:
    """Compute the first classifier's accuracy minus the second's, -1 to 1."""
    return (pairs.first - pairs.second) / sum(pairs)


def difference_interval(pairs: Pairs, level: float = LEVEL) -> Interval:
    """Compute the interval of the difference of two accuracies on the same images (Newcombe 1998, method 10).

    The distances of both accuracies from the ends of their Wilson intervals are squared and added, less their
    correlation, of which a positive one is corrected for continuity.
    """
    both, first, second, neither = pairs
    n, rows, columns = sum(pairs), (both + first, second + neither), (both + second, first + neither)
    (own, (low, high)), (other, (other_low, other_high)) = ((k / n, wilson(k, n, level)) for k in (rows[0], columns[0]))
    product, covered = rows[0] * rows[1] * columns[0] * columns[1], both * neither - first * second
    correlation = 0.0
    if product:
        correlation = (max(covered - n / 2, 0) if covered > 0 else covered) / sqrt(product)

    def distance(a: float, b: float) -> float:
        return sqrt(max(0.0, a**2 + b**2 - 2 * correlation * a * b))

    middle = own - other
    return Interval(middle - distance(own - low, other_high - other), middle + distance(other - other_low, high - own))


def mcnemar(first: int, second: int) -> float:
    """Compute the two-sided p-value of McNemar's exact test: of k = first, n = first + second, a fair coin's binomial.

    mcnemar(12, 30)  # 0.0079

    first, second  images on which only the first classifier is right, and only the second

    p = 2 P(X <= min(first, second)), at most 1. Terms are summed downwards from the largest, so that hundred thousands
    of images take milliseconds.
    """
    k, n = min(first, second), first + second
    sum_, term = 0.0, 1.0  # relative to P(X = k)
    for i in range(k, -1, -1):
        sum_ += term
        term *= i / (n - i + 1)
        if term < 1e-18 * sum_:
            break
    largest = exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - n * log(2))
    return min(1.0, 2 * largest * sum_)
