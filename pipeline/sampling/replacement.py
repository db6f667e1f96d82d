"""Replace an image that cannot be decoded by the one at the same place in a later step.

The later step is the stream's next one, or the step after that, until an image decodes. So the images of a step depend
on which images decode, and on nothing else: not on when one was found damaged, on rank, world size or a resume.
"""

import sys
import threading
from collections.abc import Callable
from typing import final

import numpy as np

from pipeline.errors import InputError
from pipeline.sampling.sampler import SampleIds

TOLERATED = 2, 0.1  # images, and share of the images: more than both is not an odd bad sector
STEPS = 100  # to search for an image that decodes


def too_many(undecodable: int, images: int) -> bool:
    """Say whether so many undecodable ones of some images should end the work: more than two and more than a tenth."""
    number, share = TOLERATED
    return undecodable > max(number, share * images)


@final
class Replacements:
    """The images of one file that were found undecodable, and their replacement in a step; for use by any thread.

    samples, n = replacements.replace(samples, lambda steps: sampler.at(step + steps)[0])
    """

    def __init__(self) -> None:
        self._undecodable = np.empty(0, np.int64)
        self._lock = threading.Lock()

    def add(self, ids: np.ndarray, error: InputError, name: Callable[[int], str]) -> None:
        """Remember undecodable images (i64 [n]) and the error about them; `name` describes each new one on stderr."""
        with self._lock:
            new = np.setdiff1d(ids, self._undecodable)
            self._undecodable = np.union1d(self._undecodable, new)
            self._error = error
        for i in new:
            print(f"warning: {name(i)} no longer decodes; another image takes its place", file=sys.stderr, flush=True)

    def replace(self, samples: SampleIds, later: Callable[[int], SampleIds]) -> tuple[SampleIds, int]:
        """Return the samples with every undecodable image replaced, and how many were; later(k): the samples of the
        step k steps on.

        Raises InputError if more than two and more than a tenth of the different images cannot be decoded, or if none
        of the next STEPS steps has an image to put in their place.
        """
        undecodable = self._undecodable
        ids, passes = samples
        wrong = np.isin(ids, undecodable)
        n = int(wrong.sum())
        if not n:
            return samples, 0
        if too_many(len(np.unique(ids[wrong])), len(np.unique(ids))):
            raise self._hopeless(f"{n} of {len(ids)} images of a batch do not decode")
        for step in range(1, STEPS + 1):
            other = later(step)
            ids, passes = (
                # where the length of a slice changes from step to step, a shorter one is repeated
                np.where(wrong, np.resize(theirs, len(ids)), ours)
                for ours, theirs in ((ids, other.ids), (passes, other.passes))
            )
            wrong = np.isin(ids, undecodable)
            if not wrong.any():
                return SampleIds(ids, passes), n
        raise self._hopeless(
            f"an image does not decode, nor does any that could take its place in the next {STEPS} steps"
        )

    def _hopeless(self, why: str) -> InputError:
        return InputError(f"{why}: {self._error}")
