"""Which image when: labelled and unlabelled streams as pure functions of the step.

There is no sampler state to save: the position of a run is its step. Rank and micro-batch only choose a slice of the
step's global batch, so the images of a step are the same at any world size.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pipeline.errors import InputError

LABELLED, UNLABELLED = 1, 2


class Picks(NamedTuple):
    """Images of one stream: ids i64 [N], and passes i64 [N], how often the stream has gone through its pool."""

    ids: np.ndarray
    passes: np.ndarray


@dataclass(frozen=True, eq=False)
class Stream:
    """An endless sequence of passes over a pool, each pass in its own random order."""

    pool: np.ndarray
    seed: int
    tag: int

    def take(self, first: int, n: int) -> Picks:
        """The images at positions first .. first + n - 1."""
        position = np.arange(first, first + n)
        passes, within = np.divmod(position, len(self.pool))
        ids = np.empty(n, np.int64)
        for each in np.unique(passes):
            here = passes == each
            ids[here] = self.pool[_permutation(len(self.pool), self.seed, self.tag, int(each))[within[here]]]
        return Picks(ids, passes)


@lru_cache(maxsize=6)  # two streams, each across a pass boundary, and one to spare
def _permutation(n: int, seed: int, tag: int, number: int) -> np.ndarray:
    return np.random.default_rng([seed, tag, number]).permutation(n)


@dataclass(frozen=True, eq=False)
class Order:
    """The images of every step; `labels_only_steps` full batches of labelled images come first.

    labelled, unlabelled             pools i64 [n], or None where a method does not use them
    labelled_batch, unlabelled_batch images of a step from each, over all ranks
    """

    seed: int
    labelled: np.ndarray | None
    unlabelled: np.ndarray | None
    labelled_batch: int
    unlabelled_batch: int
    labels_only_steps: int = 0

    def at(self, step: int, chunk: int = 0, chunks: int = 1) -> tuple[Picks | None, Picks | None]:
        """Labelled and unlabelled images of one of `chunks` equal slices (ranks times micro-batches) of a step."""
        early = min(step, self.labels_only_steps)
        late = step - early
        whole = self.labelled_batch + self.unlabelled_batch
        if step < self.labels_only_steps:
            return _slice(self._stream(LABELLED), step * whole, whole, chunk, chunks), None
        first = early * whole + late * self.labelled_batch
        return (
            _slice(self._stream(LABELLED), first, self.labelled_batch, chunk, chunks),
            _slice(self._stream(UNLABELLED), late * self.unlabelled_batch, self.unlabelled_batch, chunk, chunks),
        )

    def _stream(self, tag: int) -> Stream | None:
        pool = self.labelled if tag == LABELLED else self.unlabelled
        return None if pool is None else Stream(pool, self.seed, tag)


def _slice(stream: Stream | None, first: int, batch: int, chunk: int, chunks: int) -> Picks | None:
    if stream is None:
        return None
    share = batch // chunks
    return stream.take(first + chunk * share, share)


def shares(batch: int, ratio: float, labelled: bool, unlabelled: bool) -> tuple[int, int]:
    """How many of a step's images are labelled and unlabelled: 1 : ratio where a method uses both.

    Raises InputError if either part would be empty.
    """
    if not (labelled and unlabelled):
        return (batch, 0) if labelled else (0, batch)
    known = round(batch / (1 + ratio))
    if not 0 < known < batch:
        raise InputError(f"a batch of {batch} at 1:{ratio:g} leaves {known} labelled images; enlarge data.batch")
    return known, batch - known
