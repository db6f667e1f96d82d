"""Intervals and McNemar's test against scipy, published figures, and the share of draws that an interval covers."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from models.evaluate.intervals import Pairs, difference, difference_interval, mcnemar, wilson


@pytest.mark.parametrize("n", [1, 7, 360, 50_000])
@pytest.mark.parametrize("share", [0, 0.003, 0.5, 0.95, 1])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilsons_interval_is_scipys(n, share, level):
    hits = round(n * share)
    theirs = stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    assert wilson(hits, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_what_is_no_share_has_no_interval(hits, n):
    with pytest.raises(ValueError, match="expected hits from 0 to n"):
        wilson(hits, n)


@pytest.mark.parametrize(("first", "second"), [*product((0, 1, 5, 12), repeat=2), (400, 430), (3000, 3200), (10, 9000)])
def test_mcnemars_p_is_scipys_binomial_test(first, second):
    theirs = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(theirs, rel=1e-9, abs=1e-300)


def test_mcnemars_p_is_the_sum_of_exact_binomial_coefficients():
    n = 61
    for k in range(n // 2 + 1):
        exact = 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n
        assert mcnemar(k, n - k) == pytest.approx(min(1, exact), rel=1e-12)
    assert mcnemar(500_000, 501_000) == pytest.approx(0.318, abs=2e-3)  # as the normal distribution has it


def test_a_difference_has_the_published_interval():
    """Cavo et al. 2012, as in Fagerland, Lydersen, Laake, Statistical Analysis of Contingency Tables, chapter 8."""
    pairs = Pairs(59, 6, 16, 80)
    assert difference(pairs) == pytest.approx(-0.0621, abs=5e-5)
    assert difference_interval(pairs) == pytest.approx((-0.1186, -0.0046), abs=5e-5)


@pytest.mark.parametrize("pairs", [Pairs(9, 0, 0, 0), Pairs(0, 0, 0, 9), Pairs(0, 9, 0, 0), Pairs(5, 0, 4, 0)])
def test_tables_with_empty_margins_have_intervals(pairs):
    low, high = difference_interval(pairs)
    assert -1 <= low <= difference(pairs) <= high <= 1
    assert low < high


def test_swapped_classifiers_have_the_mirrored_interval():
    low, high = difference_interval(Pairs(70, 12, 5, 13))
    assert difference_interval(Pairs(70, 5, 12, 13)) == pytest.approx((-high, -low))


@pytest.mark.parametrize("shares", [(0.85, 0.05, 0.03, 0.07), (0.3, 0.3, 0.1, 0.3)])
def test_about_95_of_100_intervals_hold_the_true_difference(shares):
    draws = np.random.default_rng(0).multinomial(300, shares, 2000)
    true = shares[1] - shares[2]
    held = [low <= true <= high for low, high in (difference_interval(Pairs(*row)) for row in draws.tolist())]
    assert 0.935 < np.mean(held) < 0.975
