"""Hold the labels that may be seen, in memory that grows with their number, not with the file's.

labels = Labels(n=1000, ids=np.array([3, 7]), values=np.array([0, 1]))
labels[np.array([3, 4])]      # [0, -1]
"""

from dataclasses import dataclass, field
from typing import final

import numpy as np


@final
@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of a file of `n` samples; whatever is not in `ids` is hidden, and nothing here holds it.

    ids     i64 [L], ascending: samples whose label is known; range(n) where that is every one
    values  i64 [L]: their labels; or [n], a view of the file, where it may be seen as it is
    """

    n: int
    ids: np.ndarray | range = field(repr=False)
    values: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, asked: np.ndarray | int) -> np.ndarray:
        """Labels of samples: i64 [N] -> i64 [N], -1 where unknown. Raises IndexError beyond 0..n-1."""
        if np.any((np.asarray(asked) < 0) | (np.asarray(asked) >= self.n)):
            raise IndexError(f"expected samples from 0 to {self.n - 1}")
        if len(self.values) == self.n:
            return self.values[asked].astype(np.int64)
        if not len(self.values):
            return np.full(np.shape(asked), -1)
        place = np.minimum(np.searchsorted(self.ids, asked), len(self.ids) - 1)
        return np.where(self.ids[place] == asked, self.values[place], -1)


def no_labels(n: int) -> Labels:
    """Hide every label of a file of n samples, for a method that reads none."""
    return Labels(n, np.empty(0, np.int64), np.empty(0, np.int64))


def every_label(stored: np.ndarray, n_unlabelled: int) -> Labels:
    """All labels of a file, -1 where there never was one: i64 [n], a view of it, of which `n_unlabelled` are -1."""
    if not n_unlabelled:
        return Labels(len(stored), range(len(stored)), stored)
    some = range(0, len(stored), 1 << 20)  # no array of the file's size beside the result
    ids = [first + np.flatnonzero(stored[first : first + some.step] >= 0) for first in some]
    return Labels(len(stored), np.concatenate(ids), stored)
