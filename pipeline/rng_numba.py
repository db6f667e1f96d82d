"""Draw the numbers of pipeline.rng one at a time, in compiled code that plans are drawn by without the GIL.

Bits and order of the numbers are those of pipeline.rng. Logarithms and cosines are the C library's, where numpy has its
own, which also differ between processors: a normal may differ in its last bit.

    key = derive(keys[i], TAG)
    u, z = uniform(key, 0), normal(key, 1)
"""

import math

import numpy as np
from numba import njit

from pipeline import rng

u64 = np.uint64
_GOLDEN, _SHIFTS, _MULTIPLIERS = rng.GOLDEN, rng.SHIFTS, rng.MULTIPLIERS


@njit(nogil=True, cache=True)
def mix(state):
    """Take one splitmix64 step of a u64."""
    return finalise(state + u64(_GOLDEN))


@njit(nogil=True, cache=True)
def finalise(z):
    """Scramble a u64 by splitmix64's output function, as rng does."""
    z = (z ^ (z >> u64(_SHIFTS[0]))) * u64(_MULTIPLIERS[0])
    z = (z ^ (z >> u64(_SHIFTS[1]))) * u64(_MULTIPLIERS[1])
    return z ^ (z >> u64(_SHIFTS[2]))


@njit(nogil=True, cache=True)
def derive(parent, tag):
    """Derive the key of an independent sequence from a key, both u64."""
    return mix(mix(parent) ^ u64(tag))


@njit(nogil=True, cache=True)
def fill_keys(seed, passes, ids, streams, keys):
    """Make one key of each image for each of S streams, as rng.keys: seed u64, passes and ids
    i64 [N], streams u64 [S], keys u64 [S, N]."""
    seeded = mix(u64(seed))
    for i in range(len(ids)):
        image = mix(mix(seeded ^ u64(passes[i])) ^ u64(ids[i]))
        for s in range(len(streams)):
            keys[s, i] = mix(image ^ u64(streams[s]))


@njit(nogil=True, cache=True)
def fill_derived(parents, tags, keys):
    """Derive a key of each of T tags from each parent, as rng.derive: parents u64 [N], tags u64 [T],
    keys u64 [T, N]."""
    for i in range(len(parents)):
        parent = mix(parents[i])
        for t in range(len(tags)):
            keys[t, i] = mix(parent ^ u64(tags[t]))


@njit(nogil=True, cache=True)
def bits(key, i):
    """Draw the 53 random bits of number i of a key, u64: they order as `uniform` does."""
    return mix(key + u64(i) * u64(_GOLDEN)) >> u64(11)


@njit(nogil=True, cache=True)
def uniform(key, i):
    """Draw number i of a key: f64 in [0, 1)."""
    return np.float64(bits(key, i)) * 2.0**-53


@njit(nogil=True, cache=True)
def normal(key, i):
    """Draw standard normal i of a key, of the uniforms 2i and 2i + 1."""
    return math.sqrt(-2 * math.log1p(-uniform(key, 2 * i))) * math.cos(2 * math.pi * uniform(key, 2 * i + 1))


@njit(nogil=True, cache=True)
def lowest(numbers, count, chosen):
    """Say which are the `count` lowest of n numbers: u64 [n] below 2^54 -> chosen bool [n]; of equal ones the first.

    The limit below which so many lie is found by bisection, which takes a tenth of the time of a sort: the numbers are
    even, so about as many steps as n has bits lead to it, and a step has no branches.
    """
    low, high = u64(0), u64(1 << 54)
    while high - low > u64(1):
        limit, below = low + ((high - low) >> u64(1)), 0
        for i in range(len(numbers)):
            below += numbers[i] < limit
        if below > count:
            high = limit
        else:
            low = limit
        if below == count:
            break
    missing = count
    for i in range(len(numbers)):
        chosen[i] = numbers[i] < low
        missing -= chosen[i]
    for i in range(len(numbers)):
        if missing and numbers[i] == low:  # two numbers are equal, once in about 2^40 images
            chosen[i] = True
            missing -= 1


@njit(nogil=True, cache=True)
def places(chosen, found):
    """List the places where `chosen` bool [n] is true, ascending: found i64 [as many]."""
    count = 0
    for i in range(len(chosen)):
        if chosen[i]:
            found[count] = i
            count += 1
