"""Begin work before its result is needed."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(begun: Iterable[T], count: int = 1) -> Iterator[T]:
    """Yield the items of an iterable whose next `count` items have been taken from it already.

    Where taking an item begins some work, that of `count` items goes on while the caller uses the one before them:

        for finish in ahead(backend.start(plan) for plan in plans):
            views = finish()     # the next plan's images are being decoded
    """
    waiting: deque[T] = deque()
    for item in begun:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
