"""ELEVATER's search for the strength of the L2 penalty: seven of 97 values, then ever closer to the best."""

from collections.abc import Callable
from typing import Any

import numpy as np

L2 = np.logspace(-6, 6, 97)
COARSE = 16  # steps between the first seven of them


def search(
    judge: Callable[[int], Any], count: int = len(L2), coarse: int = COARSE, *, left_only: bool = False
) -> tuple[int, Any]:
    """The best of the places 0 .. count - 1 that it looks at, and what `judge` says of it (larger is better).

    Every `coarse`-th place first; then both neighbours of the best at distances coarse/2, coarse/4, ... 1. Where there
    is one peak, which a `judge` of a convex problem has, it is the one that looking at all places finds. Of equals the
    first seen wins. No place is judged twice.

    left_only  what ELEVATER's first release did, and keeps behind a flag: judge the left neighbour in the right
               one's name, too
    """
    seen: dict[int, Any] = {}

    def judged(place: int) -> Any:
        if place not in seen:
            seen[place] = judge(place)
        return seen[place]

    best, most = 0, judged(0)
    for place in range(coarse, count, coarse):
        if judged(place) > most:
            best, most = place, judged(place)
    span = coarse // 2
    while span:
        left, right = max(best - span, 0), min(best + span, count - 1)
        for place in [each for each in (left, right) if each != best]:
            found = judged(left if left_only else place)
            if found > most:
                best, most = place, found
        span //= 2
    return best, most
