"""ELEVATER's search for the L2 penalty: it tries seven of 97 values, then neighbours of the best, ever closer to it."""

from collections.abc import Callable
from typing import Any

import numpy as np

L2 = np.logspace(-6, 6, 97)
COARSE = 16  # steps between the first seven of them


def search(
    score: Callable[[int], Any], count: int = len(L2), coarse: int = COARSE, *, left_only: bool = False
) -> tuple[int, Any]:
    """Return the best of the places 0 .. count - 1 that are tried, and its score (larger is better).

    Every `coarse`-th place is tried first, then both neighbours of the best at distances coarse/2, coarse/4, ... 1.
    Where there is one peak, as a convex problem has, this is the best of all places. Of equals the first tried wins. No
    place is scored twice.

    left_only  as in ELEVATER's first release, which keeps it behind a flag: the right neighbour gets the left one's
               score
    """
    seen: dict[int, Any] = {}

    def scored(place: int) -> Any:
        if place not in seen:
            seen[place] = score(place)
        return seen[place]

    best, most = 0, scored(0)
    for place in range(coarse, count, coarse):
        if scored(place) > most:
            best, most = place, scored(place)
    span = coarse // 2
    while span:
        left, right = max(best - span, 0), min(best + span, count - 1)
        for place in [each for each in (left, right) if each != best]:
            found = scored(left if left_only else place)
            if found > most:
                best, most = place, found
        span //= 2
    return best, most
