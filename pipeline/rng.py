"""Counter-based random numbers: a pure function of (seed, pass, image id, stream, counter), with no state to restore.

Everything random about a view is drawn with these, on the host: no worker, batch, rank or back-end can change it.
The generator is splitmix64 (Steele, Lea and Flood 2014, fig. 17): output i of key k is finalise(k + (i + 1) · GOLDEN).

    keys = rng.keys(seed, passes, ids, rng.WEAK)        # u64 [N], one for each image
    numbers = rng.uniforms(rng.derive(keys, TAG), 3)    # f64 [N, 3]
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor  # this module is imported where importing torch would take too long

GOLDEN = 0x9E3779B97F4A7C15
GOLDEN_I64 = GOLDEN - 2**64  # the same bits in i64, which is what torch computes with
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)

# arrays, made once, as a plan of a small batch is mostly numpy's overhead; of one element, as scalars warn of overflow
_GOLDEN, *_MULTIPLIERS = np.array([[GOLDEN], *([each] for each in MULTIPLIERS)], np.uint64)
_SHIFTS = [np.uint64(each) for each in SHIFTS]
_UNUSED = np.uint64(11)  # low bits that a double's 53 have no room for

# Streams: one for each use of an image. A number keeps its meaning for good, as it decides what earlier runs drew.
WEAK, STRONG, MASK, LABELLED, TORCH, ORDER, CORRUPT, DENSE = range(1, 9)


def mix(states: np.ndarray) -> np.ndarray:
    """Take one splitmix64 step: u64 [...] -> u64 [...], a bijection that scrambles every bit."""
    z = np.asarray(states, np.uint64) + _GOLDEN
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        z ^= z >> shift
        z *= multiplier
    z ^= z >> _SHIFTS[-1]
    return z


def mix_i64(states: "Tensor") -> "Tensor":
    """Take one splitmix64 step on a torch tensor: i64 [...] -> i64 [...], the bits of `mix`, as i64 wraps like u64."""
    z = states + GOLDEN_I64
    for shift, multiplier in zip(SHIFTS, MULTIPLIERS, strict=False):
        z = (z ^ shifted_i64(z, shift)) * (multiplier - 2**64)  # both are 2^63 or more
    return z ^ shifted_i64(z, SHIFTS[-1])


def shifted_i64(states: "Tensor", bits: int) -> "Tensor":
    """Shift i64 right and fill with zeros, where torch's own shift repeats the sign."""
    return (states >> bits) & ((1 << (64 - bits)) - 1)


def keys(seed: int, passes: np.ndarray | int, ids: np.ndarray | int, stream: int | tuple[int, ...]) -> np.ndarray:
    """Make one key per image: u64 [N]; for S streams at once, which costs hardly more than for one, u64 [S, N].

    passes  i64 [N] or one number   how often the image's stream has gone through its pool before
    ids     i64 [N] or one number   image id, the same on every rank and in every batch
    """
    key = mix(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
    for part in (passes, ids):
        key = mix(key ^ np.atleast_1d(part).astype(np.uint64))
    return mix(key ^ np.asarray(stream, np.uint64)[..., None])


def derive(parents: np.ndarray, tag: int | tuple[int, ...]) -> np.ndarray:
    """Derive the keys of an independent sequence: u64 [N], one per parent; for T tags at once u64 [T, N].

    Each consumer has its own tag, so numbers that one draws do not shift those of another.
    """
    return mix(mix(parents) ^ np.asarray(tag, np.uint64)[..., None])


def uniforms(keys: np.ndarray, n: int, first: int = 0) -> np.ndarray:
    """Draw the numbers first..first+n-1 of each key: f64 [N, n] in [0, 1), multiples of 2^-53."""
    return (mix(keys[:, None] + _counters(first, n)) >> _UNUSED) * 2.0**-53


@lru_cache(maxsize=64)
def _counters(first: int, n: int) -> np.ndarray:
    return np.arange(first, first + n, dtype=np.uint64) * _GOLDEN


def normals(keys: np.ndarray, n: int, first: int = 0) -> np.ndarray:
    """Draw standard normals f64 [N, n] (Box-Muller); number i uses the counters 2i and 2i + 1."""
    pairs = uniforms(keys, 2 * n, 2 * first)
    return np.sqrt(-2 * np.log1p(-pairs[:, 0::2])) * np.cos(2 * np.pi * pairs[:, 1::2])
