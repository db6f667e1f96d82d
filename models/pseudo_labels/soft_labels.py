"""SoftLabels: the soft label of each image of a training file, looked up by image id on the device."""

from typing import Self, final

import numpy as np
import torch
from torch import Tensor

from pipeline.labels.known import Labels


@final
class SoftLabels:
    """Distributions f16 [n, C] over the classes, one for each image of a file.

    labels = SoftLabels(probabilities)          # np.ndarray f16 [n, C]
    labels.scores(batch.unlabelled.ids)         # i64 [N] -> f32 [N, C], the logarithms

    They are no buffer of a module: no checkpoint holds them, and copies of a method, such as a trial's, share them. The
    first look-up moves them to the device of its ids, where they take 2 bytes for each image and class.
    """

    def __init__(self, probabilities: np.ndarray | Tensor) -> None:
        self._rows = torch.as_tensor(probabilities)
        self._placed = False

    @classmethod
    def uniform(cls, images: int, classes: int) -> Self:
        """Make labels that prefer no class, of so many images, for benchmarks, which read no file."""
        return cls(torch.full((1, classes), 1 / classes, dtype=torch.float16).expand(images, classes))

    def set_known(self, known: Labels) -> None:
        """Replace the soft labels of images whose label may be seen by that label; before the first look-up.

        known  its labels that are known, of the file that the soft labels are of
        """
        ids = torch.as_tensor(np.asarray(known.ids))
        classes = torch.as_tensor(known[np.asarray(known.ids)])
        self._rows[ids] = 0
        self._rows[ids, classes] = 1

    def scores(self, ids: Tensor) -> Tensor:
        """Look up the logarithms f32 [N, C] of the soft labels of images `ids`, i64 [N]: scores whose softmax they are,
        with -inf for a class that is ruled out."""
        if not self._placed:  # a copy, so that a file that is cut short later is no longer read
            self._rows, self._placed = self._rows.to(ids.device, copy=True), True
        return self._rows[ids].float().log()

    def __deepcopy__(self, memo: dict) -> Self:
        return self
