"""Compute the random order of a pass place by place, as a keyed bijection, so that no order is stored for any pool.

The bijection is a generalised Feistel network (Black and Rogaway 2002, section 4): a place below a · b >= n is a pair
of digits, and rounds in turn add a hash of one digit to the other, modulo its base. Results of n or more go through the
network again until they are below n; with a and b near the root of n these are about one in the root of n.

    shuffled(np.arange(5), 5, keys)     # a permutation of 0..4, where all keys are equal
"""

from math import isqrt

import numpy as np

from pipeline import rng

ROUNDS = 16  # with 8 rounds some of the 120 orders of 5 images come too often, with 12 barely; large pools need fewer

_HALF = np.array([1], np.uint64)
_ROUND = [np.array([number << 56], np.uint64) for number in range(ROUNDS)]


def shuffled(places: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Permute places of a pool of n: i64 [N] in 0..n-1 -> i64 [N] in 0..n-1.

    keys  u64 [N], which permutation of each place; different places have different results under one key
    """
    columns = isqrt(n - 1) + 1
    rows = -(-n // columns)
    found = _rounds(places.astype(np.uint64), rows, columns, keys)
    beyond = np.flatnonzero(found >= n)
    while beyond.size:
        found[beyond] = _rounds(found[beyond], rows, columns, keys[beyond])
        beyond = beyond[found[beyond] >= n]
    return found.astype(np.int64)


def _rounds(places: np.ndarray, rows: int, columns: int, keys: np.ndarray) -> np.ndarray:
    bases = np.array([[rows], [columns]], np.uint64)
    digits = list(np.divmod(places, bases[1]))
    for number, salt in enumerate(_ROUND):
        changed = number % 2
        added = rng.mix(keys ^ (digits[1 - changed] | salt)) >> _HALF  # 63 bits: the sum must not wrap
        digits[changed] = (digits[changed] + added) % bases[changed]
    return digits[0] * bases[1] + digits[1]
