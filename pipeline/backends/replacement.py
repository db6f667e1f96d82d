"""Images that no longer decode, and who takes their place: training goes on, and says so.

The place of such an image in a step is taken by the image at the same place of the stream's next step, or of the step
after that, until one decodes. So what a step shows depends on which images decode, and on nothing else: not on when
that was found, on rank or world size, or on a resume.
"""

import sys
import threading
from collections.abc import Callable
from typing import final

import numpy as np

from pipeline.backends.base import Undecodable
from pipeline.errors import InputError
from pipeline.sampling.sampler import SampleIds

MOST = 0.1  # of the images in a batch: beyond that it is not an odd bad sector
STEPS = 100  # to look ahead for an image that decodes


@final
class Bad:
    """The images of one file that were found not to decode; any thread may ask and add."""

    def __init__(self) -> None:
        self._ids = np.empty(0, np.int64)
        self._lock = threading.Lock()

    def add(self, found: Undecodable) -> None:
        """Remember images, and name on stderr each that is new."""
        with self._lock:
            new = np.setdiff1d(found.ids, self._ids)
            self._ids = np.union1d(self._ids, new)
            self._error = found
        for i in new:
            named = f"{found.beton.path}: {found.named(i)}"
            print(f"warning: {named} no longer decodes; another image takes its place", file=sys.stderr, flush=True)

    def replaced(self, samples: SampleIds, later: Callable[[int], SampleIds]) -> tuple[SampleIds, int]:
        """The picks without bad images, and how many of them are others now; later(k): those of k steps on.

        Raises InputError if more than two and more than a tenth of the picked images do not decode, or if there is none
        to take a place.
        """
        bad = self._ids
        ids, passes = samples
        wrong = np.isin(ids, bad)
        n = int(wrong.sum())
        if not n:
            return samples, 0
        different = len(np.unique(ids))
        if len(np.unique(ids[wrong])) > max(2, MOST * different):
            raise self._hopeless(f"{n} of {len(ids)} images of a batch do not decode")
        for step in range(1, STEPS + 1):
            other = later(step)  # where the length of a slice changes, the shorter one is gone through again
            ids, passes = (
                np.where(wrong, np.resize(theirs, len(ids)), ours)
                for ours, theirs in ((ids, other.ids), (passes, other.passes))
            )
            wrong = np.isin(ids, bad)
            if not wrong.any():
                return SampleIds(ids, passes), n
        raise self._hopeless(
            f"an image does not decode, nor does any that could take its place in the next {STEPS} steps"
        )

    def _hopeless(self, why: str) -> InputError:
        return InputError(f"{why}: {self._error}")
