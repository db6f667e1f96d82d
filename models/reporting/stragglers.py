"""Find the rank that the others wait for."""

from collections.abc import Sequence
from statistics import median
from typing import final

SLOW, MATTERS, INTERVALS = 1.2, 0.05, 3
"""A straggler: beyond SLOW times the median, by more than MATTERS of a step, in INTERVALS intervals running."""


@final
class Stragglers:
    """The slowest rank of each interval, and a warning about one that is the slowest several times running."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes, self.rank, self.times = nodes, -1, 0

    def timing(self, own_s: Sequence[float], images_per_s: float | None) -> dict[str, float]:
        """The fields of a row's timing that compare ranks, from each rank's own seconds in a step."""
        slowest = max(range(len(own_s)), key=own_s.__getitem__)
        found = {"median_own_s": median(own_s), "slowest_own_s": own_s[slowest], "slowest_rank": slowest}
        return found | ({"node_images_per_s": images_per_s / len(set(self.nodes))} if images_per_s else {})

    def warning(self, timing: dict[str, float], step_s: float | None) -> str | None:
        """One line about a straggler, in the interval in which it becomes one; None otherwise."""
        usual, slowest, rank = timing["median_own_s"], timing["slowest_own_s"], int(timing["slowest_rank"])
        slow = step_s is not None and slowest > SLOW * usual and slowest - usual > MATTERS * step_s
        self.times = (self.times + 1 if rank == self.rank else 1) if slow else 0
        self.rank = rank
        if self.times != INTERVALS:
            return None
        return (
            f"rank {rank} on {self.nodes[rank]} holds up the others: {slowest:.3g} s a step for data and forward, "
            f"usual are {usual:.3g} s"
        )
