"""The order of a pass: a bijection, and as good as a shuffle."""

from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import rng
from pipeline.sampling import permutation
from pipeline.sampling.permutation import shuffled

WORD = 2**64


def orders(n: int, keys: int, stream: int = 1) -> np.ndarray:
    """Whole orders of n places under consecutive keys: i64 [keys, n]."""
    each = np.repeat(rng.keys(7, np.arange(keys), stream, rng.ORDER), n)
    return shuffled(np.tile(np.arange(n), keys), n, each).reshape(keys, n)


def distance(counts: np.ndarray) -> float:
    """From flat, in standard deviations of the chi-square with that many cells."""
    expected, freedom = counts.sum() / counts.size, counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, WORD - 1))
def test_every_place_goes_somewhere_else(n, key):
    found = shuffled(np.arange(n), n, np.full(n, key, np.uint64))
    assert sorted(found.tolist()) == list(range(n))


@given(st.integers(1, 10**15), st.integers(0, WORD - 1), st.data())
def test_a_result_depends_on_place_and_key_alone(n, key, data):
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    found = shuffled(places, n, np.full(len(places), key, np.uint64))
    assert ((found >= 0) & (found < n)).all()
    assert len(set(found.tolist())) == len(set(places.tolist()))
    assert found.tolist() == [
        int(shuffled(places[i : i + 1], n, np.array([key], np.uint64))[0]) for i in range(len(places))
    ]


def mixed(z: int) -> int:
    """splitmix64 in unbounded integers."""
    z = (z + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


@given(st.integers(2, 10**12), st.integers(0, WORD - 1), st.data())
def test_it_is_the_network_that_the_module_describes(n, key, data):
    place = found = data.draw(st.integers(0, n - 1))
    b = next(side for side in range(int(n**0.5) - 1, n + 1) if side**2 >= n)
    a = -(-n // b)
    while True:
        first, second = divmod(found, b)
        for number in range(16):
            if number % 2:
                second = (second + (mixed(key ^ first ^ (number << 56)) >> 1)) % b
            else:
                first = (first + (mixed(key ^ second ^ (number << 56)) >> 1)) % a
        found = first * b + second
        if found < n:
            break
    assert shuffled(np.array([place]), n, np.array([key], np.uint64)).tolist() == [found]


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_order_of_a_few_is_as_frequent_as_any(n):
    which = (orders(n, 30_000) * n ** np.arange(n)).sum(1)
    counts = np.unique(which, return_counts=True)[1]
    assert counts.size == factorial(n)
    assert distance(counts) < 4


@pytest.mark.parametrize("n", [6, 7, 50, 64, 97])
def test_every_place_and_pair_of_places_is_as_frequent_as_any(n):
    found = orders(n, 12_000, stream=2)
    places = [distance(np.bincount(column, minlength=n)) for column in found.T]
    assert max(places) < 5.5  # the largest of n
    assert abs(np.mean(places)) < 5 / np.sqrt(n)
    apart = ~np.eye(n, dtype=bool)
    for i, j in ((0, 1), (0, n - 1), (1, n // 2), (n // 2, n - 1)):
        assert distance(np.bincount(found[:, i] * n + found[:, j], minlength=n * n).reshape(n, n)[apart]) < 4.5
    fixed = (found == np.arange(n)).sum(1)
    assert abs(fixed.mean() - 1) < 4.5 / np.sqrt(len(found))  # a random order keeps one place, with variance one


def test_neighbours_of_a_large_pool_land_apart():
    n, many = 100_000_000, 100_000
    found = shuffled(np.arange(many), n, rng.keys(0, np.zeros(many, np.int64), 1, rng.ORDER))
    assert abs(distance(np.bincount(found * 1000 // n, minlength=1000))) < 4.5
    steps = np.diff(found) % n
    assert abs(distance(np.bincount(steps * 1000 // n, minlength=1000))) < 4.5
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.016


def test_too_few_rounds_would_be_noticed(monkeypatch):
    monkeypatch.setattr("pipeline.sampling.permutation._ROUND", permutation._ROUND[:6])
    counts = np.unique((orders(5, 30_000) * 5 ** np.arange(5)).sum(1), return_counts=True)[1]
    assert distance(counts) > 50
