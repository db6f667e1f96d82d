"""Counter-based random numbers: a pure function of (seed, pass, image id, stream, counter), with no state to restore.

Everything random about a view is drawn here, on the host: no worker, batch, rank or back-end can change it.
The generator is splitmix64 (Steele, Lea and Flood 2014, fig. 17): output i of key k is finalise(k + (i + 1) · GOLDEN).
"""

from functools import lru_cache

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)

# as arrays, made once: a plan of a small batch is mostly numpy's overhead; of one element, as scalars warn of overflow
_GOLDEN, *_MULTIPLIERS = np.array([[GOLDEN], *([each] for each in MULTIPLIERS)], np.uint64)
_SHIFTS = [np.uint64(each) for each in SHIFTS]
_UNUSED = np.uint64(11)  # low bits that a double's 53 have no room for

# Streams: one per use of an image. A number, once given, keeps its meaning: it decides what every old run saw.
WEAK, STRONG, MASK, LABELLED, TORCH, ORDER, CORRUPT = range(1, 8)


def mix(states: np.ndarray) -> np.ndarray:
    """One splitmix64 step: u64 [...] -> u64 [...], a bijection that scrambles every bit."""
    z = np.asarray(states, np.uint64) + _GOLDEN
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        z ^= z >> shift
        z *= multiplier
    z ^= z >> _SHIFTS[-1]
    return z


def keys(seed: int, passes: np.ndarray | int, ids: np.ndarray, stream: int | tuple[int, ...]) -> np.ndarray:
    """One key per image: u64 [N]; for S streams at once, which costs hardly more than for one, u64 [S, N].

    passes  i64 [N] or one number   how often the image's stream has been through before (its own pass, not the epoch)
    ids     i64 [N]                 image id, the same on every rank and in every batch
    """
    key = mix(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
    for part in (passes, ids):
        key = mix(key ^ np.atleast_1d(part).astype(np.uint64))
    return mix(key ^ np.asarray(stream, np.uint64)[..., None])


def derive(parents: np.ndarray, tag: int | tuple[int, ...]) -> np.ndarray:
    """Keys of an independent sequence: u64 [N], one per parent; for T tags at once u64 [T, N].

    Each consumer has its tag, so none shifts another's.
    """
    return mix(mix(parents) ^ np.asarray(tag, np.uint64)[..., None])


def uniforms(keys: np.ndarray, n: int, first: int = 0) -> np.ndarray:
    """Numbers first..first+n-1 of each key: f64 [N, n] in [0, 1), multiples of 2^-53."""
    return (mix(keys[:, None] + _counters(first, n)) >> _UNUSED) * 2.0**-53


@lru_cache(maxsize=64)
def _counters(first: int, n: int) -> np.ndarray:
    return np.arange(first, first + n, dtype=np.uint64) * _GOLDEN


def normals(keys: np.ndarray, n: int, first: int = 0) -> np.ndarray:
    """Standard normals f64 [N, n] (Box-Muller); number i uses the counters 2i and 2i + 1."""
    pairs = uniforms(keys, 2 * n, 2 * first)
    return np.sqrt(-2 * np.log1p(-pairs[:, 0::2])) * np.cos(2 * np.pi * pairs[:, 1::2])
