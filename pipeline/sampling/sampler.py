"""Sample the images of every step: a labelled and an unlabelled stream, as pure functions of the step.

There is no sampler state to save: the position of a run is its step. Rank and micro-batch only choose a slice of the
step's global batch, so the images of a step are the same at any world size.

    sampler = Sampler(0, labelled=np.array([3, 8]), unlabelled=range(100), labelled_batch=2, unlabelled_batch=14)
    labelled, unlabelled = sampler.at(step=5)     # labelled.ids i64 [2], unlabelled.ids i64 [14]
"""

from dataclasses import dataclass, field
from typing import NamedTuple, final

import numpy as np

from pipeline import rng
from pipeline.errors import InputError
from pipeline.sampling.permutation import shuffled

LABELLED, UNLABELLED = 1, 2


class SampleIds(NamedTuple):
    """Images of one stream: ids i64 [N], and passes i64 [N], how often the stream has gone through its pool before (of
    repeated images: times the repeats, plus the number of the copy), so that the two together come once."""

    ids: np.ndarray
    passes: np.ndarray


@final
@dataclass(frozen=True, eq=False)
class Rest:
    """Pool of all of n images but a few. `before` (i64, ascending) counts, for each image that is left out, the images
    of the pool before it; nothing else is kept."""

    n: int
    before: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return self.n - len(self.before)

    def __getitem__(self, places: np.ndarray | int) -> np.ndarray:
        """Return the ids at `places` of the ascending pool: i64 [N] -> i64 [N]. Raises IndexError beyond 0..len-1."""
        if np.any((places < 0) | (places >= len(self))):
            raise IndexError(f"expected places from 0 to {len(self) - 1}")
        return places + np.searchsorted(self.before, places, side="right")


Pool = np.ndarray | Rest | range
"""Image ids: listed (i64 [n], ascending), all but a few, or all of them: range(n), which takes no memory."""


def rest(n: int, left_out: np.ndarray | range) -> Pool:
    """Make the pool of 0..n-1 without `left_out` (different ids, ascending)."""
    if len(left_out) in (0, n):
        return range(n - len(left_out))
    return Rest(n, np.asarray(left_out) - np.arange(len(left_out)))


@dataclass(frozen=True, eq=False)
class Stream:
    """Endless sequence of passes over a pool, each in a random order of its own (pipeline.sampling.permutation).

    repeats  how often each image comes in a row
    """

    pool: Pool
    seed: int
    tag: int
    repeats: int = 1

    def take(self, first: int, n: int) -> SampleIds:
        """Return the images at positions first .. first + n - 1."""
        images, copies = np.divmod(np.arange(first, first + n), self.repeats)
        passes, within = np.divmod(images, len(self.pool))
        places = shuffled(within, len(self.pool), rng.keys(self.seed, passes, self.tag, rng.ORDER))
        ids = places if isinstance(self.pool, range) else self.pool[places]
        return SampleIds(ids, passes * self.repeats + copies)


@dataclass(frozen=True, eq=False)
class Sampler:
    """Sampler of the images of every step; `labels_only_steps` full batches of labelled images come first.

    labelled, unlabelled             pools, or None where a method does not use them
    labelled_batch, unlabelled_batch images of a step from each pool, over all ranks
    repeats                          how often each image comes in a row, with views of its own each time
    """

    seed: int
    labelled: Pool | None
    unlabelled: Pool | None
    labelled_batch: int
    unlabelled_batch: int
    labels_only_steps: int = 0
    repeats: int = 1

    def at(self, step: int, chunk: int = 0, chunks: int = 1) -> tuple[SampleIds | None, SampleIds | None]:
        """Return the labelled and unlabelled images of one of `chunks` equal slices (ranks times micro-batches) of a
        step."""
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
        return None if pool is None else Stream(pool, self.seed, tag, self.repeats)


def _slice(stream: Stream | None, first: int, batch: int, chunk: int, chunks: int) -> SampleIds | None:
    if stream is None:
        return None
    share = batch // chunks
    return stream.take(first + chunk * share, share)


def shares(batch: int, ratio: float, labelled: bool, unlabelled: bool) -> tuple[int, int]:
    """Split a step's images into labelled and unlabelled ones, 1 : ratio where a method uses both.

    Raises InputError if either part would be empty.
    """
    if not (labelled and unlabelled):
        return (batch, 0) if labelled else (0, batch)
    known = round(batch / (1 + ratio))
    if not 0 < known < batch:
        raise InputError(f"a batch of {batch} at 1:{ratio:g} leaves {known} labelled images; enlarge data.batch")
    return known, batch - known
