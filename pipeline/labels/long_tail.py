"""Count the images of each class in a long tail, the way in which the literature makes a balanced data set imbalanced.

long_tail(1500, 10, 100)    # [1500, 899, 539, 323, 193, 116, 69, 41, 24, 15]: CIFAR-10-LT
"""

import math
from collections.abc import Sequence

import numpy as np

from pipeline.errors import InputError

MOST = 1_000_000


def long_tail(largest: int, classes: int, ratio: float) -> list[int]:
    """Count the images of each class: `largest` of the first and by the factor `ratio` fewer of the last.

    Class k of C has largest · ratio^(-k / (C - 1)), cut to a whole number as in the authors' code, and at least 1 (Cao
    et al. 2019, LDAM; DARP, CReST and USB have the same). A negative ratio is the same tail from the last class to the
    first. Raises InputError for a ratio that `check_ratio` refuses, and for fewer than 2 classes.

    long_tail(50, 3, -25)   # [2, 10, 50]
    """
    check_ratio(ratio)
    if abs(ratio) > 1 and classes < 2:
        raise InputError(f"an imbalance is one between classes, and there is {classes}; leave it out")
    shares = [abs(ratio) ** (-k / max(1, classes - 1)) for k in range(classes)]
    # rounded first, as 1500 / 100 by powers is a little more or less than 15
    counts = [max(1, math.floor(round(largest * share, 6))) for share in shares]
    return counts if ratio > 0 else counts[::-1]


def check_ratio(ratio: float) -> None:
    """Raise InputError unless the ratio, without its sign, is from 1 to a million."""
    if not 1 <= abs(ratio) <= MOST:
        raise InputError(
            f"expected an imbalance of 1 to {MOST:,}, how many times more images the first class has than the last, or "
            f"its negative to reverse the classes, got {ratio:g}"
        )


def largest_that_fits(held: Sequence[int], ratio: float) -> int:
    """The largest n of which `long_tail(n, len(held), ratio)` asks for no more images of a class than are held, i.e. 0
    if a class holds none.
    """
    low, high = 0, max(held, default=0)
    while low < high:
        n = (low + high + 1) // 2
        fits = all(k <= has for k, has in zip(long_tail(n, len(held), ratio), held, strict=True))
        low, high = (n, high) if fits else (low, n - 1)
    return low


def uneven(counts: Sequence[int] | np.ndarray) -> bool:
    """Say whether some class has at least twice as many images as another, classes without any left out."""
    held = [n for n in counts if n]
    return bool(held) and bool(max(held) >= 2 * min(held))


def ratio_name(ratio: float) -> str:
    """100 -> "imbalance100", -100 -> "reversed100", 1 -> "": the part of a split's name."""
    check_ratio(ratio)
    if abs(ratio) == 1:
        return ""
    return f"{'imbalance' if ratio > 0 else 'reversed'}{written(abs(ratio))}"


def written(ratio: float) -> str:
    """100.0 -> "100", 2.5 -> "2.5": exactly, as a flag takes it."""
    return str(int(ratio) if ratio == int(ratio) else ratio)


def named_ratio(kind: str | None, size: str | None) -> float:
    """The ratio of a name's part: ("reversed", "100") -> -100.0, (None, None) -> 1.0."""
    return (-1.0 if kind == "reversed" else 1.0) * float(size or 1)
